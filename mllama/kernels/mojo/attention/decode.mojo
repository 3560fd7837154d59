"""Attention of few query vectors, as in decode: keys and values are streamed once,
unpacked.

A task takes a range of the keys, and all heads of a token before the next token, so
that memory is read in order. Its partial result is merged with those of the other tasks
at the end.

Source: Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from std.memory.alloc import unsafe_alloc

from .int8_tiles import (
    SHORT_STRIDE,
    accumulate_int8_values,
    int8_tile_scores,
    round_query,
)
from .simd import FloatPointer, LOWEST, deinterleave_row, fill_floats, interleave_row
from .pages import HEAD_STRIDE, PAGE_SIZE, Pages, Queries
from .split_k import num_quads
from .tiles import (
    KEYS_PER_VECTOR,
    accumulate_values,
    prefetch_values,
    tile_scores,
    softmax_step_of_quad,
)

comptime _TILE_KEYS = 32
"""Keys of a tile."""


def attention_decode[
    dtype: DType, head_dim: Int, simd_width: Int
](
    pages: Pages[dtype],
    queries: Queries,
    tokens: Pointer[Int, MutUntrackedOrigin],
    num_tokens: Int,
    table: Pointer[UInt32, MutUntrackedOrigin],
    first: Int,
    end: Int,
    split: FloatPointer,
):
    """Computes the attention of query tokens to a range of keys.

    Args:
        pages: Keys and values.
        queries: The queries.
        tokens: Indices of the query tokens.
        num_tokens: Number of query tokens.
        table: The pages that these tokens read.
        first: The first key, at the beginning of a page.
        end: The last key, exclusive; greater than `first`.
        split: Output, a partial result of `split_size` values.
    """
    var kv_heads = pages.kv_heads
    var gqa_ratio = queries.heads // kv_heads
    var vectors = num_tokens * gqa_ratio
    var quads = num_quads(vectors)
    var padded_vectors = quads * 4
    var token_width = pages.token_width()
    comptime head_stride = HEAD_STRIDE[dtype, head_dim]
    var query = unsafe_alloc[Float32](
        kv_heads * padded_vectors * head_dim, alignment=64
    )
    comptime short_stride = SHORT_STRIDE[head_dim, simd_width]
    comptime is_int8 = dtype == DType.int8
    var rounded = unsafe_alloc[Int16](
        kv_heads * padded_vectors * short_stride if is_int8 else 1, alignment=64
    )
    var query_scales = unsafe_alloc[Float32](kv_heads * padded_vectors, alignment=64)
    var scores = unsafe_alloc[Float32](
        kv_heads * padded_vectors * _TILE_KEYS, alignment=64
    )
    var maxima = split.unsafe_offset(kv_heads * padded_vectors * head_dim)
    var sums = maxima.unsafe_offset(kv_heads * padded_vectors)
    for head in range(kv_heads):
        for index in range(padded_vectors):
            var target = query.unsafe_offset((head * padded_vectors + index) * head_dim)
            if index < vectors:
                queries.write_prepared(
                    tokens.unsafe_load(index // gqa_ratio),
                    head * gqa_ratio + index % gqa_ratio,
                    target,
                )
                deinterleave_row[dtype, simd_width](target, head_dim)
            else:
                fill_floats(target, head_dim, 0)
            comptime if is_int8:
                var vector = head * padded_vectors + index
                query_scales.unsafe_store(
                    vector,
                    round_query[head_dim, simd_width](
                        target, rounded.unsafe_offset(vector * short_stride)
                    ),
                )
    fill_floats(split, kv_heads * padded_vectors * head_dim, 0)
    fill_floats(maxima, kv_heads * padded_vectors, LOWEST)
    fill_floats(sums, kv_heads * padded_vectors, 0)

    for start in range(first, end, _TILE_KEYS):
        var count = min(_TILE_KEYS, end - start)
        var page = Int(table.unsafe_load(start // PAGE_SIZE))
        var offset = start % PAGE_SIZE * token_width
        var keys = pages.keys(page).unsafe_offset(offset)
        var values = pages.values(page).unsafe_offset(offset)
        var next_key = start + _TILE_KEYS
        var next_keys = keys
        if next_key < end:
            next_keys = pages.keys(
                Int(table.unsafe_load(next_key // PAGE_SIZE))
            ).unsafe_offset(next_key % PAGE_SIZE * token_width)
        for index in range(0, count, KEYS_PER_VECTOR[simd_width]):
            for head in range(kv_heads):
                prefetch_values[dtype, head_stride * KEYS_PER_VECTOR[simd_width]](
                    values.unsafe_offset(
                        index * token_width
                        + head * head_stride * KEYS_PER_VECTOR[simd_width]
                    )
                )
                var source = keys.unsafe_offset(
                    index * token_width + head * head_stride
                )
                for quad in range(quads):
                    var block = head * quads + quad
                    var target = scores.unsafe_offset((block * _TILE_KEYS + index) * 4)
                    comptime if is_int8:
                        target.unsafe_store(
                            0,
                            int8_tile_scores[head_dim, simd_width](
                                source.unsafe_bitcast[Int8](),
                                token_width,
                                count - 1 - index,
                                rounded.unsafe_offset(block * 4 * short_stride),
                                query_scales.unsafe_offset(block * 4),
                            ),
                        )
                    else:
                        target.unsafe_store(
                            0,
                            tile_scores[dtype, head_dim, simd_width](
                                source,
                                token_width,
                                count - 1 - index,
                                query.unsafe_offset(block * 4 * head_dim),
                            ),
                        )
        for head in range(kv_heads):
            for quad in range(quads):
                var block = head * quads + quad
                var weights = scores.unsafe_offset(block * _TILE_KEYS * 4)
                var result = split.unsafe_offset(block * 4 * head_dim)
                softmax_step_of_quad[head_dim, simd_width](
                    weights,
                    count,
                    maxima.unsafe_offset(block * 4),
                    sums.unsafe_offset(block * 4),
                    result,
                )
                var head_values = values.unsafe_offset(head * head_stride)
                var upcoming = next_keys.unsafe_offset(head * count * head_stride)
                var prefetches = quad == 0 and next_key < end
                comptime if is_int8:
                    accumulate_int8_values[head_dim, simd_width](
                        head_values.unsafe_bitcast[Int8](),
                        token_width,
                        count,
                        weights,
                        result,
                        upcoming.unsafe_bitcast[Int8](),
                        prefetches,
                    )
                else:
                    accumulate_values[dtype, head_dim, simd_width](
                        head_values,
                        token_width,
                        count,
                        weights,
                        result,
                        upcoming,
                        prefetches,
                    )
    for index in range(kv_heads * padded_vectors):
        interleave_row[dtype, simd_width](
            split.unsafe_offset(index * head_dim), head_dim
        )
    query.unsafe_free()
    rounded.unsafe_free()
    query_scales.unsafe_free()
    scores.unsafe_free()
