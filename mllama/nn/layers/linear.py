"""Linear layers of the text decoder, with weights as floats or as GGUF blocks.

The checkpoint determines the format of each weight by its name, before the graphs are
built.  Formats may differ from one weight to the next.
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
"""Formats of the tensors in GGUF blocks by canonical name; floats are absent."""


def gguf_weight(
    name: str,
    out_dim: int,
    in_dim: int,
    encoding: QuantizationEncoding,
    device: DeviceRef,
) -> Weight:
    """Returns a weight ``[out, in]`` as GGUF blocks: uint8 ``[out, bytes of a row]``.

    Raises:
        ValueError: If the input width is not a multiple of the block length.
    """
    if in_dim % encoding.elements_per_block:
        raise ValueError(
            f"{name}: the width {in_dim} is not a multiple of "
            f"{encoding.elements_per_block}, the block length of {encoding.name}"
        )
    row_bytes = in_dim // encoding.elements_per_block * encoding.block_size
    return Weight(
        name, DType.uint8, (out_dim, row_bytes), device, quantization_encoding=encoding
    )


def has_custom_matmul(width: int, device: DeviceRef) -> bool:
    """Returns True if a custom op multiplies GGUF blocks of rows of this width.

    It reads the blocks in place; MAX's op copies all of them when it loads the model.
    """
    return uses_custom_ops(device) and width % gguf_matmul.SUPER_BLOCK == 0


class QuantizedLinear(Module):
    """``x @ weight.T`` with a weight in GGUF blocks and float32 activations."""

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
        self.uses_custom_op = has_custom_matmul(in_dim, device)
        self.weight = gguf_weight("weight", out_dim, in_dim, encoding, device)

    def __call__(self, x: TensorValue) -> TensorValue:
        """Multiplies ``[..., in]`` to ``[..., out]``."""
        *leading, width = x.shape
        flat = x if x.rank == 2 else ops.reshape(x, [-1, width])
        if self.uses_custom_op:
            product = gguf_matmul.gguf_matmul(flat, self.weight)
        else:
            product = ops.qmatmul(self.encoding, None, flat, TensorValue(self.weight))
        return ops.reshape(product, [*leading, self.out_dim])


def projection(
    encodings: Encodings,
    path: str,
    in_dim: int,
    out_dim: int,
    dtype: DType,
    device: DeviceRef,
) -> Linear | QuantizedLinear:
    """Returns the linear layer at a path, in the format of its weight."""
    encoding = encodings.get(f"{path}.weight")
    if encoding is None:
        return Linear(in_dim, out_dim, dtype, device)
    return QuantizedLinear(in_dim, out_dim, encoding, device)


def token_embedding(
    encodings: Encodings,
    path: str,
    num_embeddings: int,
    width: int,
    dtype: DType,
    device: DeviceRef,
) -> Embedding:
    """Returns the embedding at a path; GGUF blocks are dequantized at lookup."""
    encoding = encodings.get(f"{path}.weight")
    if encoding is None:
        return Embedding(num_embeddings, width, dtype, device)
    embedding = Embedding(num_embeddings, width, DType.uint8, device)
    embedding.weight = gguf_weight("weight", num_embeddings, width, encoding, device)
    return embedding


class GatedMLP(Module):
    """Llama's feed-forward network; each projection has the format of its weight."""

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

        def linear(name: str, in_dim: int, out_dim: int) -> Linear | QuantizedLinear:
            return projection(
                encodings, f"{path}.{name}", in_dim, out_dim, dtype, device
            )

        self.gate_proj = linear("gate_proj", width, inner)
        self.up_proj = linear("up_proj", width, inner)
        self.down_proj = linear("down_proj", inner, width)

    def __call__(self, x: TensorValue) -> TensorValue:
        """Maps ``[tokens, width]`` to the same shape."""
        gate, up = self.gate_proj, self.up_proj
        if (
            isinstance(gate, QuantizedLinear)
            and isinstance(up, QuantizedLinear)
            and gate.uses_custom_op
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
    """Returns the feed-forward network at a path: MAX's if all weights are floats."""
    names = ("gate_proj", "up_proj", "down_proj")
    if any(f"{path}.{name}.weight" in encodings for name in names):
        return GatedMLP(encodings, path, width, inner, dtype, device)
    return MLP(dtype, None, width, inner, [device])


def layer_formats(encodings: Encodings, prefix: str) -> str:
    """Returns the formats of a layer's weights; layers of equal formats share a graph.

    Args:
        encodings: The formats of the model's weights.
        prefix: The layer's path, including the final dot.
    """
    formats = sorted(
        f"{name.removeprefix(prefix)}={encoding.name}"
        for name, encoding in encodings.items()
        if name.startswith(prefix)
    )
    return ",".join(formats)
