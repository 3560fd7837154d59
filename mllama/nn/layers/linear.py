"""Matrices of the text side, as floats or as GGUF blocks.

Which form each has is known from the checkpoint when the graphs are built, by the
tensor's name, and may differ from one matrix to the next.
"""

from __future__ import annotations

from collections.abc import Mapping

from max.dtype import DType
from max.graph import DeviceRef, TensorValue, Weight, ops
from max.graph.quantization import QuantizationEncoding
from max.nn.embedding import Embedding
from max.nn.layer import Module
from max.nn.linear import MLP, Linear

from mllama.kernels.dispatch import uses_custom_ops
from mllama.kernels.ops import gguf_matmul

Encodings = Mapping[str, QuantizationEncoding]
"""Canonical name of a tensor to the format of its blocks; absent if it is floats."""


def gguf_weight(
    name: str, rows: int, width: int, encoding: QuantizationEncoding, device: DeviceRef
) -> Weight:
    """A matrix ``[rows, width]`` as blocks: uint8 ``[rows, bytes of a row]``.

    Raises:
        ValueError: If the width is no multiple of the block length.
    """
    if width % encoding.elements_per_block:
        raise ValueError(
            f"{name}: a width of {width} is no multiple of "
            f"{encoding.elements_per_block}, as {encoding.name} needs"
        )
    row_bytes = width // encoding.elements_per_block * encoding.block_size
    return Weight(
        name, DType.uint8, (rows, row_bytes), device, quantization_encoding=encoding
    )


def has_custom_matmul(width: int, device: DeviceRef) -> bool:
    """Whether products with blocks of rows of a width are own operations.

    They read the blocks where they are; MAX's makes a copy of all when it loads them.
    """
    return uses_custom_ops(device) and width % gguf_matmul.SUPER_BLOCK == 0


class QuantizedLinear(Module):
    """``x @ weight.T`` with a weight of blocks; activations are float32."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        encoding: QuantizationEncoding,
        device: DeviceRef,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.encoding = encoding
        self.own = has_custom_matmul(in_dim, device)
        self.weight = gguf_weight("weight", out_dim, in_dim, encoding, device)

    def __call__(self, x: TensorValue) -> TensorValue:
        """``[..., in]`` to ``[..., out]``."""
        *leading, width = x.shape
        rows = x if x.rank == 2 else ops.reshape(x, [-1, width])
        if self.own:
            product = gguf_matmul.gguf_matmul(rows, self.weight)
        else:
            product = ops.qmatmul(self.encoding, None, rows, TensorValue(self.weight))
        return ops.reshape(product, [*leading, self.out_dim])


def projection(
    encodings: Encodings,
    path: str,
    in_dim: int,
    out_dim: int,
    dtype: DType,
    device: DeviceRef,
) -> Linear | QuantizedLinear:
    """The linear layer at a path, in the form that its weight has."""
    encoding = encodings.get(f"{path}.weight")
    if encoding is None:
        return Linear(in_dim, out_dim, dtype, device)
    return QuantizedLinear(in_dim, out_dim, encoding, device)


def token_embedding(
    encodings: Encodings,
    path: str,
    rows: int,
    width: int,
    dtype: DType,
    device: DeviceRef,
) -> Embedding:
    """The embedding at a path; rows of blocks are dequantized as they are looked up."""
    encoding = encodings.get(f"{path}.weight")
    if encoding is None:
        return Embedding(rows, width, dtype, device)
    embedding = Embedding(rows, width, DType.uint8, device)
    embedding.weight = gguf_weight("weight", rows, width, encoding, device)
    return embedding


class GatedMLP(Module):
    """Llama's feed-forward network, each matrix in the form that its weight has."""

    def __init__(
        self,
        encodings: Encodings,
        path: str,
        width: int,
        inner: int,
        dtype: DType,
        device: DeviceRef,
    ) -> None:
        super().__init__()

        def named(name: str, in_dim: int, out_dim: int) -> Linear | QuantizedLinear:
            return projection(
                encodings, f"{path}.{name}", in_dim, out_dim, dtype, device
            )

        self.gate_proj = named("gate_proj", width, inner)
        self.up_proj = named("up_proj", width, inner)
        self.down_proj = named("down_proj", inner, width)

    def __call__(self, x: TensorValue) -> TensorValue:
        """``[rows, width]`` to the same shape."""
        gate, up = self.gate_proj, self.up_proj
        if (
            isinstance(gate, QuantizedLinear)
            and isinstance(up, QuantizedLinear)
            and gate.own
        ):
            return self.down_proj(
                gguf_matmul.fused_gate_up_matmul(x, gate.weight, up.weight)
            )
        return self.down_proj(ops.silu(gate(x)) * up(x))


def feed_forward(
    encodings: Encodings,
    path: str,
    width: int,
    inner: int,
    dtype: DType,
    device: DeviceRef,
) -> MLP | GatedMLP:
    """The feed-forward network at a path: MAX's, unless some of it is blocks."""
    names = ("gate_proj", "up_proj", "down_proj")
    if any(f"{path}.{name}.weight" in encodings for name in names):
        return GatedMLP(encodings, path, width, inner, dtype, device)
    return MLP(dtype, None, width, inner, [device])


def layer_formats(encodings: Encodings, prefix: str) -> str:
    """What distinguishes the graphs of layers that differ in formats alone."""
    formats = sorted(
        f"{name.removeprefix(prefix)}={encoding.name}"
        for name, encoding in encodings.items()
        if name.startswith(prefix)
    )
    return ",".join(formats)
