"""The format of each tensor in a GGUF file, and its content, encoded in parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.kernels.ops.gguf_quantize import FORMATS, quantization_error, quantize
from mllama.utils.bfloat16 import as_floats
from mllama.weights.gguf.file import stored_bytes
from mllama.weights.gguf.names import StoredTensor, stored_tensors
from mllama.weights.names import expected_tensors
from mllama.weights.quantization_plan import quantization_plan
from mllama.weights.tensor_info import TensorInfo

_POSITIONS = "position_embd.weight"
"""Position embeddings stay float32, as in Ollama's files."""

_WEIGHTS_AT_ONCE = 1 << 22
"""Weights in a part: a few megabytes, and enough work for every core."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to write.

    Attributes:
        name: Its canonical name.
        stored: Its name and layout in the file.
        kind: Its format in the file.
        shape: Its dimensions.
    """

    name: str
    stored: StoredTensor
    kind: GGMLQuantizationType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Returns its size in the file, in bytes."""
        return stored_bytes(self.kind, self.shape)


def planned_tensors(config: MllamaConfig, encoding: str) -> list[PlannedTensor]:
    """Plans the format of every tensor of a model.

    Args:
        config: The model's config.
        encoding: ``q4_0``, ``q4_k`` or ``q6_k``.

    Raises:
        CheckpointError: If a matrix has rows that aren't whole blocks.
    """
    formats = quantization_plan(config, encoding)
    shapes = expected_tensors(config)
    planned = []
    for name, stored in stored_tensors(config).items():
        shape = shapes[name]
        if name in formats:
            kind = formats[name]
            length = GGML_QUANT_SIZES[kind][0]
            if shape[-1] % length:
                raise CheckpointError(
                    f"{name} has rows of {shape[-1]} weights, but {kind.name.lower()} "
                    f"needs a multiple of {length}; "
                    + ("use q4_0" if shape[-1] % 32 == 0 else "leave it in floats")
                )
        elif len(shape) > 1 and not stored.name.endswith(_POSITIONS):
            kind = GGMLQuantizationType.F16
        else:
            kind = GGMLQuantizationType.F32
        planned.append(PlannedTensor(name, stored, kind, shape))
    return planned


def encode_in_parts(
    tensor: PlannedTensor, source: TensorInfo
) -> Iterator[npt.NDArray[Any]]:
    """Yields the content of a tensor in the file, some rows at a time.

    Args:
        tensor: The tensor to write.
        source: The checkpoint's tensor.

    Raises:
        CheckpointError: If a value isn't finite, or too large for the format.
    """
    rows, heads = tensor.shape[0], tensor.stored.heads
    # Rows are permuted within their head, so a part contains whole heads.
    unit = rows // heads if heads else 1
    row_weights = math.prod(tensor.shape[1:])
    step = unit * max(1, _WEIGHTS_AT_ONCE // (unit * row_weights))
    for part in source.parts(step):
        stored = tensor.stored
        if heads:
            stored = replace(stored, heads=len(part) // unit)
        if tensor.kind in FORMATS:
            blocks = quantize(part, tensor.kind, tensor.name)
            yield np.ascontiguousarray(stored.to_ollama_layout(blocks))
        else:
            values = _convert_floats(tensor, stored.to_ollama_layout(as_floats(part)))
            yield np.ascontiguousarray(values)


def _convert_floats(
    tensor: PlannedTensor, values: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Converts float32 values to the tensor's type of floats."""
    if tensor.kind is GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):  # Checked below.
            converted = values.astype(np.float16)
    else:
        converted = values
    if not np.isfinite(converted).all():
        raise quantization_error(
            tensor.name, tensor.kind, finite=bool(np.isfinite(values).all())
        )
    return converted
