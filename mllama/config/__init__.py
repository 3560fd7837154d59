"""The checkpoint's configuration, read and checked.

Fields and defaults are those of transformers' ``configuration_mllama.py``.  Old
spellings (``rope_theta`` and ``rope_scaling``, ``torch_dtype``) are understood as
well as new ones (``rope_parameters``, ``dtype``).
"""

from __future__ import annotations

from mllama.config.model import ARCHITECTURE, MODEL_TYPE, MllamaConfig
from mllama.config.text import (
    EXTRA_EMBEDDING_ROWS,
    Llama3RopeScaling,
    MllamaTextConfig,
)
from mllama.config.vision import MllamaVisionConfig

__all__ = [
    "ARCHITECTURE",
    "EXTRA_EMBEDDING_ROWS",
    "MODEL_TYPE",
    "Llama3RopeScaling",
    "MllamaConfig",
    "MllamaTextConfig",
    "MllamaVisionConfig",
]
