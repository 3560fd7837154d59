"""The adapter's tensors for one module, checked against the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mllama.errors import CheckpointError
from mllama.weights.lora.adapter_config import (
    CONFIG_FILE,
    MERGE_WITH_PEFT,
    AdapterConfig,
)
from mllama.weights.lora.merging import Change
from mllama.weights.names import Shapes
from mllama.weights.tensor_info import TensorInfo

_DOWN = "lora_A.weight"
_UP = "lora_B.weight"
_BIAS = "lora_B.bias"
_EMBEDDING_DOWN = "lora_embedding_A"
_EMBEDDING_UP = "lora_embedding_B"
_MAGNITUDE = "lora_magnitude_vector"

_PARTS = {
    **{part: part for part in (_DOWN, _UP, _BIAS, _EMBEDDING_DOWN, _EMBEDDING_UP)},
    _MAGNITUDE: _MAGNITUDE,
    f"{_MAGNITUDE}.weight": _MAGNITUDE,
}
"""Kinds of an adapter's tensors by the end of their names."""

_EMBEDDINGS = (
    "embed_tokens.weight",
    "tile_embedding.weight",
    "tile_positional_embedding.embedding.weight",
)
"""Ends of embeddings' names."""

Parts = dict[str, TensorInfo]


@dataclass(frozen=True)
class AdaptedModule:
    """A module that an adapter changes.

    Attributes:
        file: The adapter's weights.
        path: The module's path in them.
        name: The canonical name of its weights.
        shapes: Shapes of the model's tensors by canonical name.
    """

    file: Path
    path: str
    name: str
    shapes: Shapes

    def error(self, problem: str) -> CheckpointError:
        """Returns the error that reports a problem of the module."""
        return CheckpointError(f"{self.file}: {self.path} {problem}")


def split_name(source_name: str) -> tuple[str, str | None]:
    """Splits a name into module and part; the part is None for a replaced tensor."""
    for ending, part in _PARTS.items():
        if source_name.endswith(f".{ending}"):
            return source_name.removesuffix(f".{ending}"), part
    return source_name, None


def factors(
    module: AdaptedModule, parts: Parts, settings: AdapterConfig
) -> dict[str, Change]:
    """Returns how a module's factors change its tensors, by canonical name.

    Raises:
        ConfigError: If a pattern of the settings takes too long to match.
        CheckpointError: If a part is missing or doesn't fit.
    """
    shape = module.shapes[module.name]
    if len(shape) < 2:
        raise module.error("is not a matrix, so it can't have factors")
    is_embedding = module.name.endswith(_EMBEDDINGS)
    rank = settings.rank_of(_peft_path(module.path))
    wanted = _wanted_parts(shape, rank, is_embedding, settings)
    _check_parts(module, parts, wanted, rank)
    scale = settings.scale_of(_peft_path(module.path))
    down, up = (_EMBEDDING_DOWN, _EMBEDDING_UP) if is_embedding else (_DOWN, _UP)
    changes = {
        module.name: Change(
            down=parts[down],
            up=parts[up],
            magnitude=parts.get(_MAGNITUDE),
            scale=scale,
            is_embedding=is_embedding,
        )
    }
    if _BIAS in parts:
        bias_name = module.name.removesuffix("weight") + "bias"
        if bias_name not in module.shapes:
            raise module.error(
                f"has no bias, to which lora_bias could add; {MERGE_WITH_PEFT}"
            )
        changes[bias_name] = Change(bias=parts[_BIAS], scale=scale)
    return changes


def _wanted_parts(
    shape: tuple[int, ...], rank: int, is_embedding: bool, settings: AdapterConfig
) -> Shapes:
    """Returns the shapes of the parts that a module needs, factors first."""
    out, *rest = shape
    if is_embedding:
        (width,) = rest
        wanted: Shapes = {_EMBEDDING_DOWN: (rank, out), _EMBEDDING_UP: (width, rank)}
        magnitude: tuple[int, ...] = (width,)
    else:
        kernel = (1,) * (len(shape) - 2)
        wanted = {_DOWN: (rank, *rest), _UP: (out, rank, *kernel)}
        magnitude = (1, out, *kernel) if kernel else (out,)
        if settings.has_biases:
            wanted[_BIAS] = (out,)
    if settings.has_magnitudes:
        wanted[_MAGNITUDE] = magnitude
    return wanted


def _check_parts(
    module: AdaptedModule, parts: Parts, wanted: Shapes, rank: int
) -> None:
    for part in wanted:
        if part not in parts:
            raise module.error(f"lacks {part}; the adapter is incomplete")
    for part in parts:
        if part not in wanted:
            raise module.error(f"has {part}, which {CONFIG_FILE} doesn't mention")
    down, up = list(wanted)[:2]
    inner = parts[down].shape[:1]
    if inner and inner == parts[up].shape[1:2] and inner != (rank,):
        raise module.error(
            f"has the rank {inner[0]}, but {CONFIG_FILE} says {rank}; they belong to "
            "different adapters"
        )
    for part, tensor in parts.items():
        if tensor.shape != wanted[part]:
            raise module.error(
                f"has {part} of shape {list(tensor.shape)}, but the model requires "
                f"{list(wanted[part])}; the adapter is for another one"
            )


def _peft_path(module: str) -> str:
    """Returns a module's path as the patterns of ``adapter_config.json`` see it."""
    return module.removeprefix("base_model.model.")
