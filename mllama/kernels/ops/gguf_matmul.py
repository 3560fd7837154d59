"""Products of activations with GGUF blocks, as operations of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from max.dtype import DType
from max.graph import TensorType, TensorValue, Weight, ops
from max.graph.quantization import QuantizationEncoding

from mllama.kernels.dispatch import vector_width

MOJO_PACKAGE: Final = "gguf_matmul"
"""The folder of the operations, for a graph that uses them."""

SPAN: Final = 256
"""The width of a matrix must be a multiple of it."""

_NAMES: Final = {
    QuantizationEncoding.Q4_0: "q4_0",
    QuantizationEncoding.Q4_K: "q4_k",
    QuantizationEncoding.Q6_K: "q6_k",
}


def product(x: TensorValue, weight: Weight) -> TensorValue:
    """``x @ weight.T``.

    Args:
        x: float32 ``[rows, width]``.
        weight: Blocks ``[columns, bytes of a row]``, as of
            :func:`~mllama.nn.layers.linear.gguf_weight`.

    Returns:
        float32 ``[rows, columns]``.

    Raises:
        ValueError: If types or shapes don't fit; so do the others.
    """
    columns = _columns(x, weight)
    return _call(
        "mllama_gguf_matmul", x, [weight], columns, {"encoding": _encoding(weight)}
    )


def fused_qkv_matmul(
    x: TensorValue, first: Weight, second: Weight, third: Weight
) -> TensorValue:
    """The products with three matrices, side by side: one call quantizes ``x`` once.

    Returns:
        float32 ``[rows, columns of all]``.
    """
    weights = [first, second, third]
    return _call(
        "mllama_gguf_fused_qkv",
        x,
        weights,
        sum(_columns(x, weight) for weight in weights),
        {
            f"{place}_encoding": _encoding(weight)
            for place, weight in zip(("first", "second", "third"), weights, strict=True)
        },
    )


def fused_gate_up_matmul(x: TensorValue, gate: Weight, up: Weight) -> TensorValue:
    """``silu(x @ gate.T) * (x @ up.T)``.

    Returns:
        float32 ``[rows, columns]``.
    """
    columns = _columns(x, gate)
    if columns != _columns(x, up):
        raise ValueError(f"{gate.name} and {up.name} differ in their number of rows")
    return _call(
        "mllama_gguf_fused_gate_up",
        x,
        [gate, up],
        columns,
        {"gate_encoding": _encoding(gate), "up_encoding": _encoding(up)},
    )


def _call(
    name: str,
    x: TensorValue,
    weights: Sequence[Weight],
    columns: int,
    encodings: Mapping[str, str],
) -> TensorValue:
    result = TensorType(DType.float32, [x.shape[0], columns], x.device)
    values = [x, *(TensorValue(weight) for weight in weights)]
    parameters: dict[str, bool | int | str | DType] = {
        **encodings,
        "lanes": vector_width(),
    }
    return ops.custom(name, x.device, values, [result], parameters)[0].tensor


def _encoding(weight: Weight) -> str:
    encoding = weight.quantization_encoding
    if encoding not in _NAMES:
        raise ValueError(f"{weight.name} has no blocks of {', '.join(_NAMES.values())}")
    return _NAMES[encoding]


def _columns(x: TensorValue, weight: Weight) -> int:
    """The number of columns of a product, if it can be made."""
    if x.dtype != DType.float32 or x.rank != 2:
        raise ValueError(f"activations must be float32 [rows, width], not {x.type}")
    name, encoding = _encoding(weight), weight.quantization_encoding
    assert encoding is not None
    columns, row_bytes = (int(dim) for dim in weight.shape)
    width = int(x.shape[1])
    wanted = width // encoding.elements_per_block * encoding.block_size
    if width % SPAN or row_bytes != wanted:
        raise ValueError(
            f"{weight.name}: {row_bytes} bytes are no row of {width} weights in {name}"
        )
    return columns
