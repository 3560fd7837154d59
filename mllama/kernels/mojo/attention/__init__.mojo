"""Custom ops for attention on CPUs: among image patches, to cached images and to the KV
cache.

The kernels are written for AVX2 with FMA (SIMD vectors of 8 float32 values) and for
AVX-512 (16 values).

Reading order:

- `pages` has the paged caches and the queries; `plan` groups the segments of a batch
  that read the same keys and splits the work into tasks; `paged_attention` runs the
  tasks.
- A task is one of two kernels: `decode` (few queries; `tiles` has its steps, `int8_tiles`
  those for int8, `split_k` merges the tasks' partial results) or `prefill` (many
  queries; keys and values are packed for `microkernel`).
- `patches` has the attention of the vision encoder, on the same microkernel.
- `store_ops` has the ops that write keys and values into pages: `store` does so, after
  `rotary` has rotated those of text; `quantize` rounds them to int8.
- `softmax` and `simd` have what the kernels share.
"""

import extensibility

from extensibility import (
    InputTensor,
    OutputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from max.gpu.host import DeviceContext

from .paged_attention import paged_attention
from .simd import LOG2_E, FloatPointer
from .pages import Norm, Queries, pages_of_layer
from .patches import patch_attention
from .plan import IndexPointer, Segments
from .store_ops import RotateAndStoreKV, StoreKV


@extensibility.register("mllama_image_attention")
struct ImageAttention:
    """RMSNorm of the queries, then their attention to pages of the image cache."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int, simd_width: Int
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        cache: MutableInputTensor[rank=6, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        norm_weight: InputTensor[dtype=DType.float32, rank=1, ...],
        token_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        key_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        table: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        epsilon: Float32,
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        var count = table.dim_size(0)
        if norm_weight.dim_size(0) != head_dim:
            raise Error(
                "the norm's weight must have one value for each dimension of a head"
            )
        if (
            token_offsets.dim_size(0) != count + 1
            or key_offsets.dim_size(0) != count + 1
        ):
            raise Error("the segments' offsets and page tables differ in number")
        _checked_attention[head_dim, simd_width](
            output,
            cache,
            query,
            layer,
            Optional(Norm(rebind[FloatPointer](norm_weight.unsafe_ptr()), epsilon)),
            scale,
            Segments(
                count,
                rebind[IndexPointer](token_offsets.unsafe_ptr()),
                rebind[IndexPointer](key_offsets.unsafe_ptr()),
                rebind[IndexPointer](table.unsafe_ptr()),
                table.dim_size(1),
                False,
            ),
        )


@extensibility.register("mllama_causal_attention")
struct CausalAttention:
    """Attention of each request's new tokens to all its tokens up to their own."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int, simd_width: Int
    ](
        output: OutputTensor[dtype=DType.float32, rank=3, ...],
        cache: MutableInputTensor[rank=6, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        token_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        table: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        var count = table.dim_size(0)
        if token_offsets.dim_size(0) != count + 1 or cache_lengths.dim_size(0) != count:
            raise Error("the requests' offsets and page tables differ in number")
        var offsets = rebind[IndexPointer](token_offsets.unsafe_ptr())
        # The new tokens' keys are in the cache already, but its lengths don't count
        # them yet.
        var num_keys = Int(offsets.unsafe_load(0))
        var key_offsets = List[UInt32](capacity=count + 1)
        key_offsets.append(0)
        for i in range(count):
            num_keys += Int(cache_lengths.unsafe_ptr().unsafe_load(i))
            key_offsets.append(UInt32(num_keys + Int(offsets.unsafe_load(i + 1))))
        _checked_attention[head_dim, simd_width](
            output,
            cache,
            query,
            layer,
            Optional[Norm](None),
            scale,
            Segments(
                count,
                offsets,
                rebind[IndexPointer](key_offsets.unsafe_ptr()),
                rebind[IndexPointer](table.unsafe_ptr()),
                table.dim_size(1),
                True,
            ),
        )
        _ = key_offsets^


def _checked_attention[
    dtype: DType, //, head_dim: Int, simd_width: Int
](
    output: OutputTensor[dtype=DType.float32, rank=3, ...],
    cache: MutableInputTensor[dtype=dtype, rank=6, ...],
    query: InputTensor[dtype=DType.float32, rank=3, ...],
    layer: UInt32,
    var norm: Optional[Norm],
    scale: Float32,
    segments: Segments,
) raises:
    """Checks what both ops on pages have in common, and runs the attention.

    Raises:
        Error: If shapes, offsets or page tables don't match.
    """
    comptime assert (
        head_dim > 0 and head_dim % simd_width == 0
    ), "a head must be whole SIMD vectors"
    var pages = pages_of_layer[head_dim](cache, layer)
    var heads = query.dim_size(1)
    comptime for axis in range(3):
        if output.dim_size(axis) != query.dim_size(axis):
            raise Error("queries and output differ in shape")
    if (
        query.dim_size(2) != head_dim
        or pages.kv_heads == 0
        or heads % pages.kv_heads != 0
    ):
        raise Error("the shapes of queries and pages don't match")
    segments.check(query.dim_size(0), cache.dim_size(0))
    paged_attention[dtype, head_dim, simd_width](
        pages,
        Queries(
            rebind[FloatPointer](query.unsafe_ptr()),
            rebind[FloatPointer](output.unsafe_ptr()),
            norm^,
            # The softmax uses powers of 2.
            scale * LOG2_E,
            heads,
            head_dim,
        ),
        segments,
    )


@extensibility.register("mllama_patch_attention")
struct PatchAttention:
    """Attention among patches without a mask; real patches come first, and padding
    attends to these alone."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int, simd_width: Int, use_bfloat16: Bool
    ](
        result: OutputTensor[dtype=DType.float32, rank=3, ...],
        query: InputTensor[dtype=DType.float32, rank=3, ...],
        key: InputTensor[dtype=DType.float32, rank=3, ...],
        value: InputTensor[dtype=DType.float32, rank=3, ...],
        real_patches: InputTensor[rank=1, ...],
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        comptime assert (
            head_dim > 0 and head_dim % simd_width == 0
        ), "a head must be whole SIMD vectors"
        comptime assert simd_width == 16 or not use_bfloat16, "bfloat16 needs AVX-512"
        comptime for axis in range(3):
            var size = query.dim_size(axis)
            if (
                key.dim_size(axis) != size
                or value.dim_size(axis) != size
                or result.dim_size(axis) != size
            ):
                raise Error("queries, keys and values differ in shape")
        var num_real = real_patches.dim_size(0)
        if num_real > query.dim_size(1) or query.dim_size(2) % head_dim != 0:
            raise Error("the shapes of queries and real patches don't match")
        patch_attention[simd_width, use_bfloat16](
            rebind[FloatPointer](query.unsafe_ptr()),
            rebind[FloatPointer](key.unsafe_ptr()),
            rebind[FloatPointer](value.unsafe_ptr()),
            rebind[FloatPointer](result.unsafe_ptr()),
            query.dim_size(0),
            query.dim_size(1),
            num_real,
            query.dim_size(2) // head_dim,
            head_dim,
            scale,
        )
