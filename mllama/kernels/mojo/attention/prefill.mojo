"""Attention of many query vectors, as in prefill: each block of keys is packed once for
all of them.

A task takes query tokens and one KV head, whose query heads share keys and values.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from std.math import ceildiv
from std.memory.alloc import unsafe_alloc

from .simd import LOWEST, FloatPointer, FloatVector, fill_floats, load, transpose_8x8
from .pages import HEAD_STRIDE, PAGE_SIZE, Pages, Queries, vector_scale
from .softmax import softmax_step
from .microkernel import PANEL_WIDTH, STRIP_HEIGHT, multiply_strip

comptime _VALUE_PANEL[simd_width: Int] = 2 * simd_width
"""Dimensions of a panel of values: two vectors, of which common head widths are
multiples."""
comptime _BLOCK_KEYS = 240
"""Keys of a block: packed, they and their values take half of the L2 cache."""


def attention_prefill[
    dtype: DType, head_dim: Int, simd_width: Int
](
    pages: Pages[dtype],
    queries: Queries,
    tokens: Pointer[Int, MutUntrackedOrigin],
    num_tokens: Int,
    table: Pointer[UInt32, MutUntrackedOrigin],
    visible_keys: Int,
    causal: Bool,
    head: Int,
):
    """Computes the attention of query tokens to the keys of one KV head.

    Args:
        pages: Keys and values.
        queries: The queries, and the output.
        tokens: Indices of the query tokens.
        num_tokens: Number of query tokens.
        table: The pages that these tokens read.
        visible_keys: Keys that the first token sees.
        causal: Whether each further token sees one key more; otherwise all see the
            same.
        head: The KV head.
    """
    comptime height = STRIP_HEIGHT[simd_width]
    comptime key_panel = PANEL_WIDTH[simd_width]
    comptime value_panel = _VALUE_PANEL[simd_width]
    comptime value_panels = ceildiv(head_dim, value_panel)
    comptime width = value_panels * value_panel
    var gqa_ratio = queries.heads // pages.kv_heads
    var vectors = num_tokens * gqa_ratio
    var padded_vectors = ceildiv(vectors, height) * height
    # Query vector `index` sees `visible_keys + index // vectors_per_key` keys.
    var vectors_per_key = gqa_ratio if causal else padded_vectors
    var num_keys = visible_keys + (vectors - 1) // vectors_per_key
    var query = _floats(padded_vectors * head_dim)
    var output = _floats(padded_vectors * width)
    var maxima = _floats(padded_vectors)
    var sums = _floats(padded_vectors)
    var keys = _floats(_BLOCK_KEYS * head_dim)
    var values = _floats(_BLOCK_KEYS * width)
    var scores = _floats(height * _BLOCK_KEYS)
    for index in range(padded_vectors):
        var target = query.unsafe_offset(index * head_dim)
        if index < vectors:
            queries.write_prepared(
                tokens.unsafe_load(index // gqa_ratio),
                head * gqa_ratio + index % gqa_ratio,
                target,
            )
        else:
            fill_floats(target, head_dim, 0)
    fill_floats(output, padded_vectors * width, 0)
    fill_floats(maxima, padded_vectors, LOWEST)
    fill_floats(sums, padded_vectors, 0)

    for first in range(0, num_keys, _BLOCK_KEYS):
        var count = min(_BLOCK_KEYS, num_keys - first)
        _pack_keys[dtype, head_dim, key_panel](pages, table, head, first, count, keys)
        _pack_values[dtype, head_dim, value_panel](
            pages, table, head, first, count, values
        )
        for start in range(0, padded_vectors, height):
            var last = min(start + height, vectors) - 1
            var used_keys = min(count, visible_keys + last // vectors_per_key - first)
            if used_keys <= 0:
                continue
            for panel in range(ceildiv(used_keys, key_panel)):
                multiply_strip[simd_width, 3, accumulate=False, width=key_panel](
                    query.unsafe_offset(start * head_dim),
                    head_dim,
                    height,
                    keys.unsafe_offset(panel * key_panel * head_dim),
                    head_dim,
                    scores.unsafe_offset(panel * key_panel),
                    _BLOCK_KEYS,
                )
            for row in range(height):
                var index = start + row
                var weights = scores.unsafe_offset(row * _BLOCK_KEYS)
                var own_keys = max(
                    0, min(used_keys, visible_keys + index // vectors_per_key - first)
                )
                if own_keys > 0:
                    softmax_step[simd_width](
                        weights,
                        own_keys,
                        maxima.unsafe_offset(index),
                        sums.unsafe_offset(index),
                        output.unsafe_offset(index * width),
                        width,
                    )
                fill_floats(weights.unsafe_offset(own_keys), used_keys - own_keys, 0)
            for panel in range(value_panels):
                multiply_strip[simd_width, 2, accumulate=True, width=value_panel](
                    scores,
                    _BLOCK_KEYS,
                    height,
                    values.unsafe_offset(panel * value_panel * _BLOCK_KEYS),
                    used_keys,
                    output.unsafe_offset(start * width + panel * value_panel),
                    width,
                )
    for index in range(vectors):
        var factor = 1 / sums.unsafe_load(index)
        var source = output.unsafe_offset(index * width)
        var target = queries.result.unsafe_offset(
            queries.offset(
                tokens.unsafe_load(index // gqa_ratio),
                head * gqa_ratio + index % gqa_ratio,
            )
        )
        for i in range(0, head_dim, 8):
            target.unsafe_store(i, source.unsafe_load[width=8](i) * factor)
    query.unsafe_free()
    output.unsafe_free()
    maxima.unsafe_free()
    sums.unsafe_free()
    keys.unsafe_free()
    values.unsafe_free()
    scores.unsafe_free()


def _floats(count: Int) -> FloatPointer:
    return unsafe_alloc[Float32](count, alignment=64)


def _pack_keys[
    dtype: DType, head_dim: Int, panel_width: Int
](
    pages: Pages[dtype],
    table: Pointer[UInt32, MutUntrackedOrigin],
    head: Int,
    first: Int,
    count: Int,
    panels: FloatPointer,
):
    """Packs keys as panels `[head dim, panel_width]`, padded with zeros."""
    var width = pages.token_width()
    for start in range(0, ceildiv(count, panel_width) * panel_width, 8):
        var panel = panels.unsafe_offset(
            start // panel_width * panel_width * head_dim + start % panel_width
        )
        var key = first + start
        var present = min(8, count - start)
        if present <= 0:
            for i in range(head_dim):
                panel.unsafe_store(i * panel_width, FloatVector[8](0))
            continue
        # A page holds a multiple of eight keys, so these eight are in the same page.
        var page = Int(table.unsafe_load(key // PAGE_SIZE))
        var source = pages.keys(page).unsafe_offset(
            key % PAGE_SIZE * width + head * HEAD_STRIDE[dtype, head_dim]
        )
        var scales = Array[Float32, 8](fill=1)
        comptime if dtype == DType.int8:
            for j in range(present):
                scales[j] = vector_scale[dtype, head_dim](
                    source.unsafe_offset(j * width)
                )
        for i in range(0, head_dim, 8):
            var tokens = Array[FloatVector[8], 8](uninitialized=True)
            comptime for j in range(8):
                tokens[j] = load[8](
                    source, j * width + i
                ) if j < present else FloatVector[8](0)
                comptime if dtype == DType.int8:
                    tokens[j] *= scales[j]
            transpose_8x8(tokens)
            comptime for j in range(8):
                panel.unsafe_store((i + j) * panel_width, tokens[j])


def _pack_values[
    dtype: DType, head_dim: Int, panel_width: Int
](
    pages: Pages[dtype],
    table: Pointer[UInt32, MutUntrackedOrigin],
    head: Int,
    first: Int,
    count: Int,
    panels: FloatPointer,
):
    """Packs values as panels `[_BLOCK_KEYS, panel_width]`, padded with zeros."""
    comptime filled = ceildiv(head_dim, panel_width) * panel_width
    var width = pages.token_width()
    for index in range(count):
        var key = first + index
        var page = Int(table.unsafe_load(key // PAGE_SIZE))
        var source = pages.values(page).unsafe_offset(
            key % PAGE_SIZE * width + head * HEAD_STRIDE[dtype, head_dim]
        )
        var scale = vector_scale[dtype, head_dim](source)
        comptime for i in range(0, filled, 8):
            comptime panel = i // panel_width
            comptime start = panel * panel_width * _BLOCK_KEYS + i % panel_width
            panels.unsafe_store(
                start + index * panel_width,
                load[8](source, i) * scale if i < head_dim else FloatVector[8](0),
            )
