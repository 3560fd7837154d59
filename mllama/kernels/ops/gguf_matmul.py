"""Adds custom ops to a graph that multiply activations by GGUF blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from max.dtype import DType
from max.graph import TensorType, TensorValue, Weight, ops
from max.graph.quantization import QuantizationEncoding

from mllama.kernels.dispatch import has_vnni, simd_width

MOJO_PACKAGE: Final = "gguf_matmul"
"""Mojo package of these ops, for graphs that use them."""

SUPER_BLOCK: Final = 256
"""The width of a matrix must be a multiple of it."""

_ENCODINGS: Final = {
    QuantizationEncoding.Q4_0: "q4_0",
    QuantizationEncoding.Q4_K: "q4_k",
    QuantizationEncoding.Q6_K: "q6_k",
}


def gguf_matmul(x: TensorValue, weight: Weight) -> TensorValue:
    """Computes ``x @ weight.T``.

    Args:
        x: float32 ``[tokens, width]``.
        weight: GGUF blocks ``[columns, bytes of a row]``, as of
            :func:`~mllama.nn.layers.linear.gguf_weight`.

    Returns:
        float32 ``[tokens, columns]``.

    Raises:
        ValueError: If data types or shapes don't fit.
    """
    columns = _columns(x, weight)
    return _call(
        "mllama_gguf_matmul", x, [weight], columns, {"encoding": _encoding(weight)}
    )


def fused_qkv_matmul(
    x: TensorValue, first: Weight, second: Weight, third: Weight
) -> TensorValue:
    """Multiplies ``x``, quantized once, by three matrices, with results side by side.

    Args:
        x: float32 ``[tokens, width]``.
        first: GGUF blocks ``[columns, bytes of a row]``.
        second: GGUF blocks with any number of columns.
        third: GGUF blocks with any number of columns.

    Returns:
        float32 ``[tokens, columns of all]``.

    Raises:
        ValueError: If data types or shapes don't fit.
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
    """Computes ``silu(x @ gate.T) * (x @ up.T)``.

    Args:
        x: float32 ``[tokens, width]``.
        gate: GGUF blocks ``[columns, bytes of a row]``.
        up: GGUF blocks with as many columns.

    Returns:
        float32 ``[tokens, columns]``.

    Raises:
        ValueError: If data types or shapes don't fit.
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
        "simd_width": simd_width(),
        "has_vnni": has_vnni(),
    }
    return ops.custom(name, x.device, values, [result], parameters)[0].tensor


def _encoding(weight: Weight) -> str:
    encoding = weight.quantization_encoding
    if encoding not in _ENCODINGS:
        raise ValueError(
            f"{weight.name} has no GGUF blocks of {', '.join(_ENCODINGS.values())}"
        )
    return _ENCODINGS[encoding]


def _columns(x: TensorValue, weight: Weight) -> int:
    """Checks the operands of a product and returns its number of columns."""
    if x.dtype != DType.float32 or x.rank != 2:
        raise ValueError(f"activations must be float32 [tokens, width], not {x.type}")
    name, encoding = _encoding(weight), weight.quantization_encoding
    assert encoding is not None
    columns, row_bytes = (int(dim) for dim in weight.shape)
    width = int(x.shape[1])
    expected = width // encoding.elements_per_block * encoding.block_size
    if width % SUPER_BLOCK or row_bytes != expected:
        raise ValueError(
            f"{weight.name}: {row_bytes} bytes are not a row of {width} weights in "
            f"{name}"
        )
    return columns
