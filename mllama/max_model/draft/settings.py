"""The files of the draft model, on their way to the model's process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType

from mllama.weights.gguf.checkpoint import open_llama_gguf, quantized_formats
from mllama.weights.llama_config import LlamaConfig
from mllama.weights.memory_estimate import served_bytes
from mllama.weights.ollama.ggml_llama import read_llama_config


@dataclass(frozen=True, kw_only=True)
class DraftSettings:
    """The files of the draft model.

    Attributes:
        directory: Directory with its configuration; None if a GGUF file has it.
        weight_path: Files of its weights, quantized if they need to be.
        encoding: Encoding that it is served in.
    """

    directory: Path | None
    weight_path: tuple[Path, ...]
    encoding: str

    @property
    def is_gguf(self) -> bool:
        """Returns True if the weights are a GGUF file."""
        return self.weight_path[0].suffix == ".gguf"

    @cached_property
    def config(self) -> LlamaConfig:
        """Returns its configuration, which is read once."""
        if self.directory is None:
            return read_llama_config(open_llama_gguf(self.weight_path[0]))
        return LlamaConfig.from_path(self.directory)

    @property
    def weights_bytes(self) -> int:
        """Returns the bytes of memory that the weights take."""
        formats: Mapping[str, GGMLQuantizationType] = {}
        if self.is_gguf:
            file = open_llama_gguf(self.weight_path[0])
            formats = quantized_formats(file, self.config)
        size = 2 if self.encoding == "bfloat16" else 4
        return served_bytes(self.config, formats, size, int8_vision=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values."""
        return {
            "directory": None if self.directory is None else str(self.directory),
            "weight_path": [str(path) for path in self.weight_path],
            "encoding": self.encoding,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DraftSettings:
        """Returns settings from the result of :meth:`to_dict`."""
        directory = values["directory"]
        return cls(
            directory=None if directory is None else Path(directory),
            weight_path=tuple(map(Path, values["weight_path"])),
            encoding=values["encoding"],
        )
