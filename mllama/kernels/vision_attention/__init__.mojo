"""Attention among the patches of an image, as an operation of MAX graphs.

Written for AVX2 with FMA: vectors of 8 float32, 16 of them.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .attention import attend


@extensibility.register("mllama_padded_attention")
struct PaddedAttention:
    """Attention without a mask, real rows first; padding attends to these alone."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int
    ](
        result: OutputTensor[dtype=DType.float32, rank=3, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        key: InputTensor[dtype=DType.float32, rank=3, ...],
        value: InputTensor[dtype=DType.float32, rank=3, ...],
        real_rows: InputTensor[rank=1, ...],
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        comptime assert head_dim > 0 and head_dim % 8 == 0, "no multiple of 8"
        comptime for axis in range(3):
            var size = query.dim_size(axis)
            if (
                key.dim_size(axis) != size
                or value.dim_size(axis) != size
                or result.dim_size(axis) != size
            ):
                raise Error("queries, keys and values differ in shape")
        var real = real_rows.dim_size(0)
        if real > query.dim_size(1) or query.dim_size(2) % head_dim != 0:
            raise Error("the shapes of an attention contradict each other")
        attend(
            query.unsafe_ptr().as_unsafe_any_origin(),
            key.unsafe_ptr().as_unsafe_any_origin(),
            value.unsafe_ptr().as_unsafe_any_origin(),
            result.unsafe_ptr().as_unsafe_any_origin(),
            query.dim_size(0),
            query.dim_size(1),
            real,
            query.dim_size(2) // head_dim,
            head_dim,
            scale,
        )
