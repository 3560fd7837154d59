"""Opens a LoRA adapter in PEFT's format and checks that it fits the model.

Opening it reads only headers; :func:`check_values` reads the numbers.  The files are
not trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.weights.checkpoint import Checkpoint
from mllama.weights.lora.adapter_config import (
    CONFIG_FILE,
    AdapterConfig,
    read_adapter_config,
)
from mllama.weights.lora.adapter_parts import AdaptedModule, Parts, factors, split_name
from mllama.weights.lora.merging import Change, MergedTensor, is_finite
from mllama.weights.lora.surroundings import check_weights_beside
from mllama.weights.names import Shapes, canonical_name, expected_tensors
from mllama.weights.safetensors_header import HeaderEntry, read_header
from mllama.weights.tensor_info import DTYPE_NAMES, TensorInfo

WEIGHTS_FILE: Final = "adapter_model.safetensors"
PICKLE_FILE: Final = "adapter_model.bin"

_BASE_LAYER = ".base_layer."
"""PEFT inserts this into names of the adapted modules' own tensors, such as biases."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits a model.

    Attributes:
        path: Its directory.
        config: Its settings.
        files: The files that were read.
        changes: Its changes by canonical name of the changed tensor (see
            :mod:`mllama.weights.names`).
    """

    path: Path
    config: AdapterConfig
    files: tuple[Path, ...]
    changes: Mapping[str, Change]

    def summary(self) -> str:
        """Returns a line about the adapter for the log."""
        base = self.config.base_model
        return (
            f"merged the adapter {self.path}"
            + (f", made for {base}," if base else "")
            + f" into {len(self.changes)} tensors"
        )

    def merged_into(self, checkpoint: Checkpoint) -> Checkpoint:
        """Returns a checkpoint with the adapter, which is merged when tensors are read.

        The result's files include the adapter's.
        """
        tensors = {
            name: MergedTensor.create(tensor, self.changes[name])
            if name in self.changes
            else tensor
            for name, tensor in checkpoint.tensors.items()
        }
        files = [*checkpoint.files, *self.files]
        return replace(checkpoint, tensors=tensors, files=files)


def open_adapter(directory: Path, config: MllamaConfig) -> Adapter:
    """Reads an adapter's settings and the header of its weights.

    Args:
        directory: A directory with ``adapter_config.json`` and
            ``adapter_model.safetensors``.
        config: The config of the model to merge it into.

    Raises:
        ConfigError: If its settings are damaged.
        CheckpointError: If a file is missing or damaged, the adapter is of another
            kind, a tensor doesn't fit the model or the settings, or there are weights
            that would not be used.
    """
    settings = read_adapter_config(directory)
    file = _weights_file(directory)
    check_weights_beside(directory, file)
    entries = read_header(file)
    if not entries:
        raise CheckpointError(f"{file} has no tensors; download it again")
    shapes = expected_tensors(config)
    changes: dict[str, Change] = {}
    modules: dict[str, Parts] = {}
    for source_name, entry in entries.items():
        module, part = split_name(source_name)
        if part is None:
            name = _model_tensor(source_name, source_name, shapes, settings)
            tensor = _tensor(file, source_name, entry, shapes[name])
            if name in changes:
                raise CheckpointError(f"{file} has {name} twice; download it again")
            changes[name] = Change(replacement=tensor)
        else:
            modules.setdefault(module, {})[part] = _tensor(file, source_name, entry)
    for module in settings.modules_to_save:
        if not any(f".{module}." in f".{source_name}" for source_name in entries):
            raise CheckpointError(
                f"{CONFIG_FILE} names {module} in modules_to_save, but {file} has no "
                "tensor of it; it is incomplete"
            )
    adapted: set[str] = set()
    for module, parts in modules.items():
        some = next(iter(parts.values())).source_name
        name = _model_tensor(f"{module}.weight", some, shapes, settings)
        if name in adapted:
            raise CheckpointError(f"{file} changes {name} twice; download it again")
        adapted.add(name)
        found = factors(AdaptedModule(file, module, name, shapes), parts, settings)
        for changed, change in found.items():
            below = changes.get(changed, Change()).replacement
            changes[changed] = replace(change, replacement=below)
    files = (directory / CONFIG_FILE, file)
    return Adapter(directory, settings, files, changes)


def check_values(adapter: Adapter) -> None:
    """Checks that all of an adapter's numbers are finite.

    Raises:
        CheckpointError: If one isn't, as after a diverged training.
    """
    for change in adapter.changes.values():
        for tensor in change.tensors:
            if not is_finite(tensor):
                raise CheckpointError(
                    f"{tensor.source_name} of {tensor.file} has values that are NaN or "
                    "infinite; the training went wrong, or the file is damaged"
                )


def _weights_file(directory: Path) -> Path:
    file = directory / WEIGHTS_FILE
    if file.is_file():
        return file
    if (directory / PICKLE_FILE).is_file():
        raise CheckpointError(
            f"{directory} has its weights only as a PyTorch pickle ({PICKLE_FILE}), "
            "which runs code when read; load it where you trust it with PEFT and write "
            "safetensors with save_pretrained"
        )
    raise CheckpointError(
        f"{directory} has no {WEIGHTS_FILE}; it is incomplete, so download it again"
    )


def _model_tensor(
    path: str, source_name: str, shapes: Shapes, settings: AdapterConfig
) -> str:
    """Returns the canonical name of the model's tensor at a path of the adapter."""
    name = canonical_name(path.replace(_BASE_LAYER, "."))
    if name is None or name not in shapes:
        base = settings.base_model
        raise CheckpointError(
            f"the adapter's {source_name} matches no tensor of this model; the adapter "
            + (f"was made for {base}" if base else "is for another one")
        )
    return name


def _tensor(
    file: Path,
    source_name: str,
    entry: HeaderEntry,
    wanted: tuple[int, ...] | None = None,
) -> TensorInfo:
    if entry.dtype not in DTYPE_NAMES:
        raise CheckpointError(
            f"{file}: {source_name} has elements of type {entry.dtype}, but only "
            f"{', '.join(DTYPE_NAMES)} are supported"
        )
    if wanted is not None and entry.shape != wanted:
        raise CheckpointError(
            f"{file}: {source_name} has shape {list(entry.shape)}, but the model "
            f"requires {list(wanted)}; the adapter is for another one"
        )
    dtype = DTYPE_NAMES[entry.dtype]
    return TensorInfo(file, source_name, dtype, entry.shape, entry.offset, entry.nbytes)
