"""The kinds of models that are downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mllama.config import MllamaConfig
from mllama.weights.gguf.writing import ARCHITECTURE, LLAMA_ARCHITECTURE
from mllama.weights.llama_config import LlamaConfig


@dataclass(frozen=True)
class ModelKind:
    """What a repository has to contain.

    Attributes:
        read_config: Reads the configuration in a directory.
        architecture: ``general.architecture`` of its GGUF files.
    """

    read_config: Callable[[Path], MllamaConfig]
    architecture: str


VISION_MODEL: Final = ModelKind(MllamaConfig.from_path, ARCHITECTURE)
"""The model that is served."""

DRAFT_MODEL: Final = ModelKind(LlamaConfig.from_path, LLAMA_ARCHITECTURE)
"""A text-only Llama."""
