"""What a directory of compiled graphs was compiled for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mllama.compilation.host import gpu_host, versions
from mllama.config import MllamaConfig
from mllama.errors import CompiledModelError
from mllama.kernels.dispatch import MAX, chosen_kernels
from mllama.utils.cpu import cpu_features

_NO_SHAPE = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Fields of the text configuration that no graph depends on."""

_NAMES = {
    "config": "config hash",
    "encoding": "encoding",
    "formats": "hash of the blocks' formats",
    "max_length": "maximum length",
    "max_batch_size": "batch size",
    "max_ce_batch_size": "context-encoding batch size",
    "devices": "devices",
    "kernels": "kernels",
    "cpu": "CPU features",
    "max": "MAX version",
    "mllama": "mllama version",
    "sources": "hash of mllama's sources",
}

_NOT_IN_GRAPHS = ("max_length", "max_batch_size", "max_ce_batch_size")
"""What a saved model is checked for although its graphs would do for others."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a start and its graphs must agree on.

    Attributes:
        config: Hash of the model's configuration, without what graphs don't see.
        encoding: The weights' encoding.
        formats: Hash of the formats of the tensors that are blocks.
        max_length: Longest sequence in tokens.
        max_batch_size: Rows of a decode batch.
        max_ce_batch_size: Rows of a context-encoding batch.
        devices: ``cpu``, or API and architecture of each GPU, ``cuda:sm_90``.
        kernels: ``avx512``, ``avx2`` or ``max``, see
            :func:`~mllama.kernels.dispatch.chosen_kernels`.
        cpu: Features of the CPU, see :func:`cpu_features`.  Graphs for GPUs need them
            on the host, and run where there are more.
        max: Version of MAX.
        mllama: Version of this package.
        sources: Hash of this package's sources.
    """

    config: str
    encoding: str
    formats: str
    max_length: int
    max_batch_size: int
    max_ce_batch_size: int
    devices: tuple[str, ...]
    kernels: str
    cpu: tuple[str, ...]
    max: str
    mllama: str
    sources: str

    @classmethod
    def for_this_machine(
        cls,
        config: MllamaConfig,
        *,
        encoding: str,
        formats: Mapping[str, str],
        max_length: int,
        max_batch_size: int,
        max_ce_batch_size: int,
        devices: tuple[str, ...],
    ) -> Manifest:
        """The manifest of what is about to be started or compiled here.

        Args:
            config: The model's.
            encoding: The weights' encoding.
            formats: Format of each tensor in blocks, by canonical name.
            max_length: As in the class, as are the others.
            max_batch_size: See there.
            max_ce_batch_size: See there.
            devices: See there.
        """
        return cls(
            config=config_hash(config),
            encoding=encoding,
            formats=_hash(dict(formats)),
            max_length=max_length,
            max_batch_size=max_batch_size,
            max_ce_batch_size=max_ce_batch_size,
            devices=devices,
            kernels=chosen_kernels() if set(devices) == {"cpu"} else MAX,
            cpu=cpu_features(),
            **versions(),
        )

    def for_gpu_host(self) -> Manifest:
        """The same of graphs that were compiled for :func:`gpu_host`."""
        return replace(self, cpu=gpu_host()[1])

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """The manifest that :meth:`to_dict` gave.

        Raises:
            CompiledModelError: If a field is missing, unknown or of a wrong type.
        """
        if not isinstance(values, dict) or set(values) != set(_NAMES):
            raise CompiledModelError("its fields are not those of a manifest")
        fields: dict[str, Any] = {}
        for name, value in values.items():
            kind = type(value).__name__
            if kind == "list" and all(isinstance(entry, str) for entry in value):
                fields[name], kind = tuple(value), "tuple[str, ...]"
            else:
                fields[name] = value
            if kind != cls.__annotations__[name]:
                raise CompiledModelError(f"its field {name!r} is of a wrong type")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def key(self) -> str:
        """Names what the graphs themselves depend on."""
        values = self.to_dict()
        for name in _NOT_IN_GRAPHS:
            del values[name]
        return _hash(values)

    def mismatches(self, asked: Manifest) -> list[str]:
        """What was saved and what is asked for, for every field that differs."""
        lines = []
        for name, label in _NAMES.items():
            saved, wanted = getattr(self, name), getattr(asked, name)
            if saved == wanted:
                continue
            if name == "cpu":
                if "cpu" not in self.devices and set(saved) <= set(wanted):
                    continue
                lines.append(f"{label} ({_change(saved, wanted)})")
            else:
                lines.append(f"{label} {_shown(saved)} (asked for: {_shown(wanted)})")
        return lines


def config_hash(config: MllamaConfig) -> str:
    """Hash of what graphs depend on in a model's configuration."""
    text = asdict(config.text_config)
    for name in _NO_SHAPE:
        del text[name]
    return _hash({"text": text, "vision": asdict(config.vision_config)})


def _hash(value: Any) -> str:
    encoded = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _change(saved: tuple[str, ...], asked: tuple[str, ...]) -> str:
    """Features that this machine lacks, and those that it has beyond the saved ones."""
    lacking = sorted(set(saved) - set(asked))
    beyond = sorted(set(asked) - set(saved))
    parts = []
    if lacking:
        parts.append(f"this machine lacks {', '.join(lacking)}")
    if beyond:
        parts.append(f"this machine has also {', '.join(beyond)}")
    return "; ".join(parts)
