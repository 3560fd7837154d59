"""Adds a custom op to a graph that runs any linear layer in float32."""

from __future__ import annotations

from typing import Final

from max.dtype import DType
from max.graph import DeviceRef, TensorType, TensorValue, ops

from mllama.kernels.dispatch import uses_custom_ops

MOJO_PACKAGE: Final = "float_matmul"
"""Mojo package of this op, for graphs that use it."""


def supports(dtype: DType, device: DeviceRef) -> bool:
    """Returns True if the op supports a linear layer.

    Args:
        dtype: Data type of activations and weights.
        device: Device of the layer.
    """
    return dtype is DType.float32 and uses_custom_ops(device)


def float_matmul(
    x: TensorValue,
    weights: TensorValue,
    bias: TensorValue | None = None,
    *,
    has_gelu: bool = False,
) -> TensorValue:
    """Computes ``x @ weights.T + bias``, and the exact GELU of it if asked to.

    All calls in a graph share one compiled kernel, whatever their shapes.

    Args:
        x: float32 ``[tokens, width]``.
        weights: float32 ``[columns, width]``.
        bias: float32 ``[columns]``.
        has_gelu: Whether to apply GELU.

    Returns:
        float32 ``[tokens, columns]``.

    Raises:
        ValueError: If the shapes don't fit.
    """
    columns, width = weights.shape
    if x.rank != 2 or x.shape[1] != width:
        raise ValueError(f"{x.type} can't be multiplied with {weights.type}")
    if bias is not None and bias.shape != [columns]:
        raise ValueError(f"the bias {bias.type} doesn't have {columns} values")
    cpu = DeviceRef.CPU()
    return ops.custom(
        "mllama_float_matmul",
        x.device,
        [
            x,
            weights,
            # An unused input, if there is no bias.
            ops.reshape(weights, [-1]) if bias is None else bias,
            ops.constant(bias is not None, DType.bool, cpu),
            ops.constant(has_gelu, DType.bool, cpu),
        ],
        [TensorType(DType.float32, [x.shape[0], columns], x.device)],
    )[0].tensor
