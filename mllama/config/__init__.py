"""The configuration of a checkpoint, read from ``config.json`` and checked.

Fields and defaults are those of transformers' ``configuration_mllama.py``.  Both the
old spellings (``rope_theta`` and ``rope_scaling``, ``torch_dtype``) and the new ones
(``rope_parameters``, ``dtype``) are accepted.

Read ``validation`` (the pydantic base class and field types) first, then ``text``,
``vision`` and ``model``.  ``rope`` and ``sharding`` compute what depends on a
configuration alone: the rotary table, and whether devices can share the model.
"""

from __future__ import annotations

from mllama.config.model import ARCHITECTURE, MODEL_TYPE, MllamaConfig
from mllama.config.text import (
    NUM_EXTRA_EMBEDDINGS,
    Llama3RopeScaling,
    MllamaTextConfig,
)
from mllama.config.vision import MllamaVisionConfig

__all__ = [
    "ARCHITECTURE",
    "MODEL_TYPE",
    "NUM_EXTRA_EMBEDDINGS",
    "Llama3RopeScaling",
    "MllamaConfig",
    "MllamaTextConfig",
    "MllamaVisionConfig",
]
