"""Attention among patches and over the image pool, as operations of MAX graphs.

Written for AVX2 with FMA: vectors of 8 float32, 16 of them.
"""

import extensibility

from extensibility import (
    InputTensor,
    OutputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from max.gpu.host import DeviceContext

from .attend import attend
from .lanes import LOG2_E, Floats
from .pages import PAGE, Pages, Queries
from .patches import attend_patches
from .plan import Integers, Segments
from .store import Images, store


def _pages[
    dtype: DType
](
    pool: MutableInputTensor[dtype=dtype, rank=6, ...], layer: UInt32, head_dim: Int
) raises -> Pages[dtype]:
    """One layer of the pool.

    Raises:
        Error: If it lacks the layer, or its shape is another.
    """
    if (
        pool.dim_size(1) != 2
        or pool.dim_size(3) != PAGE
        or pool.dim_size(5) != head_dim
    ):
        raise Error("the image pool has another shape")
    if Int(layer) >= pool.dim_size(2):
        raise Error("the image pool lacks the layer")
    return Pages[dtype](
        pool.unsafe_ptr().unsafe_mut_cast[True]().unsafe_origin_cast[MutUntrackedOrigin](),
        pool.dim_size(2),
        Int(layer),
        pool.dim_size(4),
        head_dim,
    )


@extensibility.register("mllama_image_attention")
struct ImageAttention:
    """RMSNorm of the queries, then their attention to pages of the pool."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int
    ](
        attended: OutputTensor[dtype=DType.float32, rank=3, ...],
        pool: MutableInputTensor[rank=6, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        norm_weight: InputTensor[dtype=DType.float32, rank=1, ...],
        row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        key_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        table: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        epsilon: Float32,
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        comptime assert head_dim > 0 and head_dim % 8 == 0, "no multiple of 8"
        var pages = _pages(pool, layer, head_dim)
        var rows = query.dim_size(0)
        var heads = query.dim_size(1)
        if (
            query.dim_size(2) != head_dim
            or norm_weight.dim_size(0) != head_dim
            or attended.dim_size(0) != rows
            or attended.dim_size(1) != heads
            or attended.dim_size(2) != head_dim
            or pages.kv_heads == 0
            or heads % pages.kv_heads != 0
        ):
            raise Error("queries and image pool contradict each other")
        var count = table.dim_size(0)
        if (
            row_offsets.dim_size(0) != count + 1
            or key_offsets.dim_size(0) != count + 1
        ):
            raise Error("the segments' offsets and pages differ in number")
        var segments = Segments(
            count,
            rebind[Integers](row_offsets.unsafe_ptr()),
            rebind[Integers](key_offsets.unsafe_ptr()),
            rebind[Integers](table.unsafe_ptr()),
            table.dim_size(1),
        )
        segments.check(rows, pool.dim_size(0))
        attend[pool.dtype, head_dim](
            pages,
            Queries(
                rebind[Floats](query.unsafe_ptr()),
                rebind[Floats](attended.unsafe_ptr()),
                rebind[Floats](norm_weight.unsafe_ptr()),
                epsilon,
                # Weights are powers of 2.
                scale * LOG2_E,
                heads,
                head_dim,
            ),
            segments,
        )


@extensibility.register("mllama_image_store")
struct ImageStore:
    """Keys and values of new images into pages of the pool."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int
    ](
        pool: MutableInputTensor[rank=6, ...],
        keys: InputTensor[dtype=DType.float32, rank=3, ...],
        values: InputTensor[dtype=DType.float32, rank=3, ...],
        row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        starts: InputTensor[dtype=DType.uint32, rank=1, ...],
        table: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        comptime assert head_dim > 0 and head_dim % 8 == 0, "no multiple of 8"
        var pages = _pages(pool, layer, head_dim)
        comptime for axis in range(3):
            if keys.dim_size(axis) != values.dim_size(axis):
                raise Error("keys and values differ in shape")
        if keys.dim_size(1) != pages.kv_heads or keys.dim_size(2) != head_dim:
            raise Error("keys and image pool contradict each other")
        var count = table.dim_size(0)
        if row_offsets.dim_size(0) != count + 1 or starts.dim_size(0) != count:
            raise Error("the images' offsets and pages differ in number")
        var images = Images(
            count,
            rebind[Integers](row_offsets.unsafe_ptr()),
            rebind[Integers](starts.unsafe_ptr()),
            rebind[Integers](table.unsafe_ptr()),
            table.dim_size(1),
        )
        images.check(keys.dim_size(0), pool.dim_size(0))
        store[pool.dtype](
            pages,
            images,
            rebind[Floats](keys.unsafe_ptr()),
            rebind[Floats](values.unsafe_ptr()),
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
        attend_patches(
            rebind[Floats](query.unsafe_ptr()),
            rebind[Floats](key.unsafe_ptr()),
            rebind[Floats](value.unsafe_ptr()),
            rebind[Floats](result.unsafe_ptr()),
            query.dim_size(0),
            query.dim_size(1),
            real,
            query.dim_size(2) // head_dim,
            head_dim,
            scale,
        )
