"""What the server says about the model that it serves."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mllama.config import MllamaConfig
from mllama.launch.model_files import ModelFiles
from mllama.weights.names import expected_tensors
from mllama.weights.ollama.store import PREFIX
from mllama.weights.ollama.stored_settings import StoredSettings, read_settings


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """The served model, as clients that list models show it.

    Attributes:
        config: Its configuration.
        file_format: ``safetensors`` or ``gguf``.
        encoding: Encoding of the weights.
        size: Bytes of its files.
        digest: 64 hexadecimal digits, which differ for other files.
        modified: When its files were last changed, in seconds since 1970.
        is_on_gpu: Whether it runs on a GPU.
        stored: What Ollama's store has about it; None if it comes from elsewhere.
    """

    config: MllamaConfig = field(default_factory=MllamaConfig)
    file_format: str = "safetensors"
    encoding: str = "bfloat16"
    size: int = 0
    digest: str = "0" * 64
    modified: float = 0.0
    is_on_gpu: bool = False
    stored: StoredSettings | None = None

    @property
    def parameter_count(self) -> int:
        """Returns the number of weights."""
        return sum(map(math.prod, expected_tensors(self.config).values()))

    @property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """Returns Ollama's options for a model of its store; none for others."""
        return {} if self.stored is None else self.stored.parameters


def describe_model(files: ModelFiles, model: str) -> ModelDescription:
    """Returns the description of a model that is about to be served.

    Args:
        files: Its files, quantized if they need to be.
        model: What the user named.

    Raises:
        MllamaError: If Ollama's store has the model, and settings of it are damaged.
    """
    stats = [path.stat() for path in files.weight_path]
    stored = read_settings(model) if model.startswith(PREFIX) else None
    identity = hashlib.sha256()
    for path, stat in zip(files.weight_path, stats, strict=True):
        identity.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    is_gguf = any(path.suffix == ".gguf" for path in files.weight_path)
    return ModelDescription(
        config=files.config,
        file_format="gguf" if is_gguf else "safetensors",
        encoding=files.encoding.name,
        size=sum(stat.st_size for stat in stats),
        digest=identity.hexdigest() if stored is None else stored.digest,
        modified=max((stat.st_mtime for stat in stats), default=0.0),
        is_on_gpu=files.encoding.device_type == "gpu",
        stored=stored,
    )
