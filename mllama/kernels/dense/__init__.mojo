"""Dense float32 arithmetic of the vision side, as operations of MAX graphs.

Written for AVX2 with FMA: vectors of 8 float32, 16 of them.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .attention import attend
from .products import multiply_rows


@extensibility.register("mllama_dense_product")
struct DenseProduct:
    """Rows times the transpose of a matrix, plus a bias."""

    @staticmethod
    def execute[
        target: StaticString, rank: Int, gelu: Bool
    ](
        result: OutputTensor[dtype=DType.float32, rank=rank, ...],
        rows: InputTensor[dtype=DType.float32, rank=rank, ...],
        matrix: InputTensor[rank=2, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var columns = matrix.dim_size(0)
        var depth = matrix.dim_size(1)
        var count = 1
        comptime for axis in range(rank - 1):
            count *= rows.dim_size(axis)
            if result.dim_size(axis) != rows.dim_size(axis):
                raise Error("rows and result differ in number")
        if (
            rows.dim_size(rank - 1) != depth
            or result.dim_size(rank - 1) != columns
            or bias.dim_size(0) not in (0, columns)
        ):
            raise Error("the shapes of a dense product contradict each other")
        multiply_rows[matrix.dtype, gelu](
            rows.unsafe_ptr().as_unsafe_any_origin(),
            count,
            depth,
            matrix.unsafe_ptr().as_unsafe_any_origin(),
            columns,
            bias.unsafe_ptr().as_unsafe_any_origin(),
            bias.dim_size(0) > 0,
            result.unsafe_ptr().as_unsafe_any_origin(),
        )


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
