"""The manifest of a compiled model: everything that its graphs were compiled for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from gguf import GGMLQuantizationType
from pydantic import ConfigDict, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mllama.compilation.host import gpu_host, versions
from mllama.config import MllamaConfig
from mllama.config.validation import one_line
from mllama.errors import CompiledModelError
from mllama.kernels.dispatch import AVX2, AVX512, AVXVNNI, MAX, chosen_kernels
from mllama.utils.cpu import cpu_features

MANIFEST = "manifest.json"

_IRRELEVANT_TEXT_FIELDS = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Fields of the text configuration that no graph depends on."""

RUNNABLE_KERNELS = {
    AVX512: (AVX512, AVXVNNI, AVX2),
    AVXVNNI: (AVXVNNI, AVX2),
    AVX2: (AVX2,),
    MAX: (MAX,),
}
"""The kernels whose graphs run here, fastest first, by those that this CPU has.

A CPU with AVX-512 may lack AVX-VNNI; the manifest's CPU features tell.
"""

_LABELS = {
    "config": "config hash",
    "encoding": "encoding",
    "formats": "hash of the quantized tensors' formats",
    "devices": "devices",
    "kernels": "kernels",
    "cpu": "CPU features",
    "max": "MAX version",
    "mllama": "mllama version",
    "sources": "hash of mllama's sources",
}
"""The name of each field in messages."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Manifest:
    """Everything that compiled graphs depend on.

    Attributes:
        config: Hash of the parts of the model's configuration that graphs depend on.
        encoding: The encoding of the weights.
        formats: Hash of the formats of the tensors that are stored as GGUF blocks.
        devices: ``cpu``, or the API and architecture of each GPU (``cuda:sm_90``).
        kernels: ``avx512``, ``avxvnni``, ``avx2`` or ``max``, see
            :func:`~mllama.kernels.dispatch.chosen_kernels`.
        cpu: Features of the CPU that the graphs run on, or of the GPUs' host, see
            :func:`cpu_features`.  They also run on a CPU that has more.
        max: Version of MAX.
        mllama: Version of this package.
        sources: Hash of the source files that graphs are built from.
    """

    config: StrictStr
    encoding: StrictStr
    formats: StrictStr
    devices: tuple[StrictStr, ...]
    kernels: StrictStr
    cpu: tuple[StrictStr, ...]
    max: StrictStr
    mllama: StrictStr
    sources: StrictStr

    @classmethod
    def for_this_machine(
        cls,
        config: MllamaConfig,
        *,
        encoding: str,
        formats: Mapping[str, GGMLQuantizationType],
        devices: tuple[str, ...],
    ) -> Manifest:
        """Returns the manifest of graphs for this machine.

        Args:
            config: The model's configuration.
            encoding: The encoding of the weights.
            formats: Format of each tensor in GGUF blocks, by canonical name.
            devices: ``cpu``, or the API and architecture of each GPU.
        """
        return cls(
            config=config_hash(config),
            encoding=encoding,
            formats=_hash({name: kind.name for name, kind in formats.items()}),
            devices=devices,
            kernels=chosen_kernels() if set(devices) == {"cpu"} else MAX,
            cpu=cpu_features(),
            **versions(),
        )

    def for_gpu_host(self) -> Manifest:
        """Returns this manifest for graphs that were compiled for :func:`gpu_host`."""
        return replace(self, cpu=gpu_host()[1])

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """Returns the manifest from the result of :meth:`to_dict`.

        Raises:
            CompiledModelError: If a field is missing, unknown or of a wrong type.
        """
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise CompiledModelError(one_line(error, MANIFEST)) from None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def key(self) -> str:
        """Returns a hash of all fields."""
        return _hash(self.to_dict())

    def is_for(self, requested: Manifest) -> bool:
        """Returns True if the graphs are for the same model and kind of device.

        They may still have been compiled for another CPU, or from other sources.
        """
        return all(
            getattr(self, name) == getattr(requested, name)
            for name in ("config", "encoding", "formats", "devices")
        )

    def mismatches(self, requested: Manifest) -> list[str]:
        """Describes each field in which the requested graphs differ from these.

        A CPU with additional features runs the graphs too, though other ones would be
        compiled on it.
        """
        lines = []
        for name, label in _LABELS.items():
            saved, wanted = getattr(self, name), getattr(requested, name)
            if saved == wanted:
                continue
            if name == "cpu":
                if lacking := sorted(set(saved) - set(wanted)):
                    lines.append(f"{label} (this machine lacks {', '.join(lacking)})")
            elif name != "kernels" or saved not in RUNNABLE_KERNELS.get(wanted, ()):
                lines.append(f"{label} {_joined(saved)} (requested: {_joined(wanted)})")
        return lines


def config_hash(config: MllamaConfig) -> str:
    """Returns a hash of the parts of a configuration that graphs depend on."""
    text = asdict(config.text_config)
    for name in _IRRELEVANT_TEXT_FIELDS:
        del text[name]
    return _hash({"text": text, "vision": asdict(config.vision_config)})


def _hash(value: Any) -> str:
    encoded = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def _joined(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
