"""Linear layers of the vision side, over floats or over bytes."""

from __future__ import annotations

from max.dtype import DType
from max.graph import DeviceRef, TensorValue, Weight, ops
from max.nn.layer import Module
from max.nn.linear import Linear

from mllama.kernels.ops.int8_matmul import int8_matmul, tiled_shape


class Int8Linear(Module):
    """``x @ (weight * scale).T + bias``, rows of ``x`` rounded to bytes as well."""

    def __init__(
        self, in_dim: int, out_dim: int, device: DeviceRef, *, has_bias: bool
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.weight = Weight("weight", DType.int8, tiled_shape(out_dim, in_dim), device)
        self.scale = Weight("scale", DType.float32, (out_dim,), device)
        self.bias = (
            Weight("bias", DType.float32, (out_dim,), device) if has_bias else None
        )

    def __call__(self, x: TensorValue, added: TensorValue | None = None) -> TensorValue:
        """``[..., in]`` to ``[..., out]``.

        Args:
            x: What is multiplied.
            added: What is added to it if there is no bias: ``[..., out]`` or ``[out]``.
        """
        *leading, width = x.shape
        result = int8_matmul(
            ops.reshape(x, [-1, width]),
            TensorValue(self.weight),
            TensorValue(self.scale),
            added if self.bias is None else TensorValue(self.bias),
        )
        return ops.reshape(result, [*leading, self.out_dim])


def vision_linear(
    in_dim: int,
    out_dim: int,
    dtype: DType,
    device: DeviceRef,
    *,
    in_bytes: bool,
    has_bias: bool = False,
) -> Linear | Int8Linear:
    """A linear layer of the encoder's.

    Args:
        in_dim: Width of its input.
        out_dim: Width of its output.
        dtype: Element type of the weights, if they are floats.
        device: Where it is.
        in_bytes: Whether they are bytes.
        has_bias: Whether it adds a bias.
    """
    if in_bytes:
        return Int8Linear(in_dim, out_dim, device, has_bias=has_bias)
    return Linear(in_dim, out_dim, dtype, device, has_bias=has_bias)
