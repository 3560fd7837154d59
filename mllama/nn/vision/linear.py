"""Linear layers of the vision encoder, in floats or int8 (W8A8)."""

from __future__ import annotations

from max.dtype import DType
from max.graph import DeviceRef, TensorValue, Weight, ops
from max.nn.layer import Module
from max.nn.linear import Linear

from mllama.kernels.ops.float_matmul import float_matmul, supports
from mllama.kernels.ops.int8_matmul import int8_matmul, tiled_shape


class FloatLinear(Linear):
    """``x @ weight.T + bias``, and the exact GELU of it if asked to.

    Where the custom op is supported, all layers of a graph share a compiled kernel.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        dtype: DType,
        device: DeviceRef,
        *,
        has_bias: bool,
        has_gelu: bool = False,
    ) -> None:
        super().__init__(in_dim, out_dim, dtype, device, has_bias=has_bias)
        self.has_gelu = has_gelu

    def __call__(self, x: TensorValue) -> TensorValue:
        """Multiplies ``[..., in]`` to ``[..., out]``."""
        if not supports(x.dtype, x.device):
            result = super().__call__(x)
            return ops.gelu(result) if self.has_gelu else result
        *leading, width = x.shape
        weight = TensorValue(self.weight)
        result = float_matmul(
            ops.reshape(x, [-1, width]),
            weight,
            None if self.bias is None else TensorValue(self.bias),
            has_gelu=self.has_gelu,
        )
        return ops.reshape(result, [*leading, weight.shape[0]])


class Int8Linear(Module):
    """``x @ (weight * scale).T + bias`` in int8, with one scale per token of ``x``."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        device: DeviceRef,
        *,
        has_bias: bool,
        has_gelu: bool = False,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.has_gelu = has_gelu
        self.weight = Weight("weight", DType.int8, tiled_shape(out_dim, in_dim), device)
        self.scale = Weight("scale", DType.float32, (out_dim,), device)
        self.bias = (
            Weight("bias", DType.float32, (out_dim,), device) if has_bias else None
        )

    def __call__(
        self, x: TensorValue, addend: TensorValue | None = None
    ) -> TensorValue:
        """Multiplies ``[..., in]`` to ``[..., out]``.

        Args:
            x: The activations.
            addend: Added to the product if there is no bias: ``[..., out]`` or
                ``[out]``.
        """
        *leading, width = x.shape
        result = int8_matmul(
            ops.reshape(x, [-1, width]),
            TensorValue(self.weight),
            TensorValue(self.scale),
            addend if self.bias is None else TensorValue(self.bias),
        )
        result = ops.reshape(result, [*leading, self.out_dim])
        return ops.gelu(result) if self.has_gelu else result


def vision_linear(
    in_dim: int,
    out_dim: int,
    dtype: DType,
    device: DeviceRef,
    *,
    int8: bool,
    has_bias: bool = False,
    has_gelu: bool = False,
) -> FloatLinear | Int8Linear:
    """Returns a linear layer of the vision encoder.

    Args:
        in_dim: Width of its input.
        out_dim: Width of its output.
        dtype: Data type of the weights, if they are floats.
        device: Device of the layer.
        int8: Whether the layer runs in int8.
        has_bias: Whether it adds a bias.
        has_gelu: Whether it applies the exact GELU.
    """
    options = {"has_bias": has_bias, "has_gelu": has_gelu}
    if int8:
        return Int8Linear(in_dim, out_dim, device, **options)
    return FloatLinear(in_dim, out_dim, dtype, device, **options)
