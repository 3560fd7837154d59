"""Attention among patches, over the image pool and over the KV cache, as operations of
MAX graphs.

Written for AVX2 with FMA (8 lanes) and for AVX-512 (16 lanes).
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
from .pages import PAGE, Norm, Pages, Queries
from .patches import attend_patches
from .plan import Integers, Segments
from .store import Images, store


def _pages[
    dtype: DType
](
    pool: MutableInputTensor[dtype=dtype, rank=6, ...], layer: UInt32, head_dim: Int
) raises -> Pages[dtype]:
    """One layer of a pool.

    Raises:
        Error: If it lacks the layer, or its shape is another.
    """
    if (
        pool.dim_size(1) != 2
        or pool.dim_size(3) != PAGE
        or pool.dim_size(5) != head_dim
    ):
        raise Error("the pages have another shape")
    if Int(layer) >= pool.dim_size(2):
        raise Error("the pages lack the layer")
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
        target: StaticString, head_dim: Int, lanes: Int
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
        var count = table.dim_size(0)
        if norm_weight.dim_size(0) != head_dim:
            raise Error("the norm has another width")
        if (
            row_offsets.dim_size(0) != count + 1
            or key_offsets.dim_size(0) != count + 1
        ):
            raise Error("the segments' offsets and pages differ in number")
        _attend[head_dim, lanes](
            attended,
            pool,
            query,
            layer,
            Optional(Norm(rebind[Floats](norm_weight.unsafe_ptr()), epsilon)),
            scale,
            Segments(
                count,
                rebind[Integers](row_offsets.unsafe_ptr()),
                rebind[Integers](key_offsets.unsafe_ptr()),
                rebind[Integers](table.unsafe_ptr()),
                table.dim_size(1),
                False,
            ),
        )


@extensibility.register("mllama_causal_attention")
struct CausalAttention:
    """Attention of each request's new rows to those in the KV cache up to their own."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int, lanes: Int
    ](
        attended: OutputTensor[dtype=DType.float32, rank=3, ...],
        cache: MutableInputTensor[rank=6, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        table: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        var count = table.dim_size(0)
        if (
            row_offsets.dim_size(0) != count + 1
            or cache_lengths.dim_size(0) != count
        ):
            raise Error("the requests' offsets and pages differ in number")
        var offsets = rebind[Integers](row_offsets.unsafe_ptr())
        # New rows are in the cache already, and not yet in its lengths.
        var seen = Int(offsets.unsafe_load(0))
        var key_offsets = List[UInt32](capacity=count + 1)
        key_offsets.append(0)
        for i in range(count):
            seen += Int(cache_lengths.unsafe_ptr().unsafe_load(i))
            key_offsets.append(UInt32(seen + Int(offsets.unsafe_load(i + 1))))
        _attend[head_dim, lanes](
            attended,
            cache,
            query,
            layer,
            Optional[Norm](None),
            scale,
            Segments(
                count,
                offsets,
                rebind[Integers](key_offsets.unsafe_ptr()),
                rebind[Integers](table.unsafe_ptr()),
                table.dim_size(1),
                True,
            ),
        )
        _ = key_offsets^


def _attend[
    dtype: DType, //, head_dim: Int, lanes: Int
](
    attended: OutputTensor[dtype=DType.float32, rank=3, ...],
    pool: MutableInputTensor[dtype=dtype, rank=6, ...],
    query: InputTensor[dtype=DType.float32, rank=3, ...],
    layer: UInt32,
    var norm: Optional[Norm],
    scale: Float32,
    segments: Segments,
) raises:
    """Checks what the operations have in common, and attends.

    Raises:
        Error: If the arguments contradict each other.
    """
    comptime assert head_dim > 0 and head_dim % lanes == 0, "no whole vectors"
    var pages = _pages(pool, layer, head_dim)
    var heads = query.dim_size(1)
    comptime for axis in range(3):
        if attended.dim_size(axis) != query.dim_size(axis):
            raise Error("queries and attended rows differ in shape")
    if (
        query.dim_size(2) != head_dim
        or pages.kv_heads == 0
        or heads % pages.kv_heads != 0
    ):
        raise Error("queries and pages contradict each other")
    segments.check(query.dim_size(0), pool.dim_size(0))
    attend[dtype, head_dim, lanes](
        pages,
        Queries(
            rebind[Floats](query.unsafe_ptr()),
            rebind[Floats](attended.unsafe_ptr()),
            norm^,
            # Weights are powers of 2.
            scale * LOG2_E,
            heads,
            head_dim,
        ),
        segments,
    )


@extensibility.register("mllama_image_store")
struct ImageCacheStorage:
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
            raise Error("keys and pages contradict each other")
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
        target: StaticString, head_dim: Int, lanes: Int, pairs: Bool
    ](
        result: OutputTensor[dtype=DType.float32, rank=3, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        key: InputTensor[dtype=DType.float32, rank=3, ...],
        value: InputTensor[dtype=DType.float32, rank=3, ...],
        real_rows: InputTensor[rank=1, ...],
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        comptime assert head_dim > 0 and head_dim % lanes == 0, "no whole vectors"
        comptime assert lanes == 16 or not pairs, "pairs are for AVX-512"
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
        attend_patches[lanes, pairs](
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
