"""The manifest of a compiled model: everything that its graphs were compiled for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import ConfigDict, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mllama.compilation.host import gpu_host, versions
from mllama.config import MllamaConfig
from mllama.config.validation import one_line
from mllama.errors import CompiledModelError
from mllama.kernels.dispatch import MAX, chosen_kernels
from mllama.utils.cpu import cpu_features

MANIFEST = "manifest.json"

_IRRELEVANT_TEXT_FIELDS = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Fields of the text configuration that no graph depends on."""

_LABELS = {
    "config": "config hash",
    "encoding": "encoding",
    "formats": "hash of the quantized tensors' formats",
    "max_length": "maximum length",
    "max_batch_size": "batch size",
    "max_ce_batch_size": "prefill batch size",
    "devices": "devices",
    "kernels": "kernels",
    "cpu": "CPU features",
    "max": "MAX version",
    "mllama": "mllama version",
    "sources": "hash of mllama's sources",
}
"""The name of each field in messages."""

_NOT_IN_GRAPHS = ("max_length", "max_batch_size", "max_ce_batch_size")
"""Fields that a saved model must match although its graphs don't depend on them."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Manifest:
    """Everything that a start must have in common with its compiled graphs.

    Attributes:
        config: Hash of the parts of the model's configuration that graphs depend on.
        encoding: The encoding of the weights.
        formats: Hash of the formats of the tensors that are stored as GGUF blocks.
        max_length: Maximum length of a sequence in tokens.
        max_batch_size: Maximum number of requests in a decode batch.
        max_ce_batch_size: Maximum number of requests in a prefill batch.
        devices: ``cpu``, or the API and architecture of each GPU (``cuda:sm_90``).
        kernels: ``avx512``, ``avx2`` or ``max``, see
            :func:`~mllama.kernels.dispatch.chosen_kernels`.
        cpu: Features of the CPU, see :func:`cpu_features`.  Graphs for GPUs need them
            on the host, and run on hosts that have more.
        max: Version of MAX.
        mllama: Version of this package.
        sources: Hash of the source files that graphs are built from.
    """

    config: StrictStr
    encoding: StrictStr
    formats: StrictStr
    max_length: StrictInt
    max_batch_size: StrictInt
    max_ce_batch_size: StrictInt
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
        formats: Mapping[str, str],
        max_length: int,
        max_batch_size: int,
        max_ce_batch_size: int,
        devices: tuple[str, ...],
    ) -> Manifest:
        """Returns the manifest of a start or compilation on this machine.

        Args:
            config: The model's configuration.
            encoding: The encoding of the weights.
            formats: Format of each tensor in GGUF blocks, by canonical name.
            max_length: Maximum length of a sequence in tokens.
            max_batch_size: Maximum number of requests in a decode batch.
            max_ce_batch_size: Maximum number of requests in a prefill batch.
            devices: ``cpu``, or the API and architecture of each GPU.
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
        """Returns a hash of the fields that the graphs depend on."""
        values = self.to_dict()
        for name in _NOT_IN_GRAPHS:
            del values[name]
        return _hash(values)

    def mismatches(self, requested: Manifest) -> list[str]:
        """Describes each field in which a requested start differs from this manifest.

        A CPU with additional features matches graphs that were compiled for GPUs.
        """
        lines = []
        for name, label in _LABELS.items():
            saved, wanted = getattr(self, name), getattr(requested, name)
            if saved == wanted:
                continue
            if name == "cpu":
                if "cpu" not in self.devices and set(saved) <= set(wanted):
                    continue
                lines.append(f"{label} ({_feature_mismatch(saved, wanted)})")
            else:
                lines.append(f"{label} {_joined(saved)} (asked for: {_joined(wanted)})")
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


def _feature_mismatch(saved: tuple[str, ...], present: tuple[str, ...]) -> str:
    """Describes the CPU features that this machine lacks or has in addition."""
    missing = sorted(set(saved) - set(present))
    additional = sorted(set(present) - set(saved))
    parts = []
    if missing:
        parts.append(f"this machine lacks {', '.join(missing)}")
    if additional:
        parts.append(f"this machine also has {', '.join(additional)}")
    return "; ".join(parts)
