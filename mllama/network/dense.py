"""Linear layers of floats and padded attention: own operations where they run.

The operations are in ``mllama/kernels/dense``; a graph that calls what is here names
that folder among its ``operations``.  Elsewhere (a GPU, bfloat16, another CPU) MAX's
operations do the same.
"""

from __future__ import annotations

from max.dtype import DType
from max.graph import DeviceRef, TensorType, TensorValue, ops
from max.nn.layer import Module
from max.nn.linear import Linear

from mllama.kernels.choice import uses_own

OPERATIONS = "dense"
"""The folder of ``mllama/kernels`` with the operations."""

_MULTIPLE = 8
"""Heads of other widths are left to MAX."""

_WEIGHTS = (DType.float32, DType.float16, DType.bfloat16)


def linear(layer: Module, x: TensorValue, *, gelu: bool = False) -> TensorValue:
    """Applies a linear layer and, if asked, the exact GELU.

    Args:
        layer: A layer of floats, or one that is simply called.
        x: ``[..., in]``.
        gelu: Whether the activation follows.

    Returns:
        ``[..., out]``.
    """
    if isinstance(layer, Linear) and _is_own(x):
        bias = None if layer.bias is None else TensorValue(layer.bias)
        return dense_product(x, TensorValue(layer.weight), bias, gelu=gelu)
    product: TensorValue = layer(x)
    return ops.gelu(product) if gelu else product


def dense_product(
    x: TensorValue, weight: TensorValue, bias: TensorValue | None, *, gelu: bool = False
) -> TensorValue:
    """``x @ weight.T``, plus a bias, through an activation, by the own operation.

    Args:
        x: float32 ``[..., in]``, on a CPU.
        weight: ``[out, in]``, float32, float16 or bfloat16.
        bias: float32 ``[out]``, or none.
        gelu: Whether the exact GELU follows.

    Returns:
        float32 ``[..., out]``.

    Raises:
        ValueError: If types or shapes don't fit.
    """
    columns, depth = weight.shape
    if x.dtype != DType.float32 or weight.dtype not in _WEIGHTS:
        raise ValueError(f"no product of {x.dtype} and {weight.dtype}")
    if x.shape[-1] != depth:
        raise ValueError(f"{x.shape} doesn't fit a weight of {weight.shape}")
    if bias is None:
        bias = ops.broadcast_to(ops.constant(0, x.dtype, x.device), [0])
    elif bias.dtype != x.dtype or list(bias.shape) != [columns]:
        raise ValueError(f"a bias of {bias.type} for {columns} columns")
    (result,) = ops.custom(
        "mllama_dense_product",
        x.device,
        [x, weight, bias],
        [TensorType(x.dtype, [*x.shape[:-1], columns], x.device)],
        parameters={"gelu": gelu},
    )
    return result.tensor


def _is_own(x: TensorValue) -> bool:
    return uses_own(x.device) and x.dtype == DType.float32


def padded_attention(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_rows: TensorValue,
    padding_rows: TensorValue,
    head_dim: int,
) -> TensorValue:
    """Attends: real rows to all rows, padding rows, which come last, to the real ones.

    Args:
        query: ``[images, rows, heads * head dim]``.
        key: As ``query``.
        value: As ``query``.
        real_rows: Any tensor ``[real rows]``; only its length counts.
        padding_rows: Any tensor ``[padding rows]``; only its length counts.
        head_dim: Width of a head; scores are divided by its root.

    Returns:
        As ``query``.

    Raises:
        ValueError: If the shapes differ or aren't of whole heads.
    """
    if not query.shape == key.shape == value.shape:
        raise ValueError(f"shapes {query.shape}, {key.shape}, {value.shape} differ")
    width = int(query.shape[-1])
    if width % head_dim:
        raise ValueError(f"{width} is no multiple of a head of {head_dim}")
    if not _is_own(query) or head_dim % _MULTIPLE:
        return attention_of_max(query, key, value, real_rows, padding_rows, head_dim)
    (result,) = ops.custom(
        "mllama_padded_attention",
        query.device,
        [
            query,
            key,
            value,
            real_rows,
            ops.constant(head_dim**-0.5, DType.float32, DeviceRef.CPU()),
        ],
        [query.type],
        parameters={"head_dim": head_dim},
    )
    return result.tensor


def attention_of_max(
    query: TensorValue,
    key: TensorValue,
    value: TensorValue,
    real_rows: TensorValue,
    padding_rows: TensorValue,
    head_dim: int,
) -> TensorValue:
    """As :func:`padded_attention`: two attention calls that MAX fuses into flash
    attention."""
    images, rows, width = query.shape
    heads, scale = int(width) // head_dim, head_dim**-0.5

    def split(states: TensorValue) -> TensorValue:
        shape = [images, rows, heads, head_dim]
        return ops.transpose(ops.reshape(states, shape), 1, 2)

    def attention(
        query: TensorValue, key: TensorValue, value: TensorValue
    ) -> TensorValue:
        scores = query @ ops.transpose(key, -1, -2)
        return ops.softmax(scores * scale) @ value

    query, key, value = split(query), split(key), split(value)
    real, padding = real_rows.shape[0], padding_rows.shape[0]
    count = TensorValue(real)
    first = (slice(0, count), real)
    last = (slice(count, None), padding)
    attended = ops.concat(
        [
            attention(query[:, :, first], key, value),
            attention(query[:, :, last], key[:, :, first], value[:, :, first]),
        ],
        axis=2,
    )
    attended = ops.transpose(attended, 1, 2).rebind([images, rows, heads, head_dim])
    return ops.reshape(attended, [images, rows, width])
