"""Attention of few query vectors: keys and values are streamed once, as they lie.

A task takes a range of the keys, all heads of a row at a time, so that memory is read
in order; its sums are merged with those of the other tasks at the end.

Source: Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from std.memory.alloc import unsafe_alloc

from .lanes import Floats, LOWEST, cross, fill_row, uncross
from .pages import PAGE, Pages, Queries
from .partials import blocks_of_four
from .streamed import TOGETHER, add_values, fetch, scores, weigh_four

comptime _KEYS = 32
"""Keys of a block."""


def attend_few[
    dtype: DType, head_dim: Int, lanes: Int
](
    pages: Pages[dtype],
    queries: Queries,
    rows: Pointer[Int, MutUntrackedOrigin],
    num_rows: Int,
    table: Pointer[UInt32, MutUntrackedOrigin],
    first: Int,
    end: Int,
    partial: Floats,
):
    """The attention of rows to a range of keys.

    Args:
        pages: Keys and values.
        queries: The queries.
        rows: Which of them.
        num_rows: How many.
        table: The pages that the rows read.
        first: The first key, at the beginning of a page.
        end: The last key, exclusive; beyond `first`.
        partial: The outcome, of `partial_size`.
    """
    var kv_heads = pages.kv_heads
    var group = queries.heads // kv_heads
    var vectors = num_rows * group
    var fours = blocks_of_four(vectors)
    var padded = fours * 4
    var width = pages.row_width()
    var query = unsafe_alloc[Float32](
        kv_heads * padded * head_dim, alignment=64
    )
    var found = unsafe_alloc[Float32](
        kv_heads * padded * _KEYS, alignment=64
    )
    var tops = partial.unsafe_offset(kv_heads * padded * head_dim)
    var sums = tops.unsafe_offset(kv_heads * padded)
    for head in range(kv_heads):
        for index in range(padded):
            var target = query.unsafe_offset((head * padded + index) * head_dim)
            if index < vectors:
                queries.prepared(
                    rows.unsafe_load(index // group),
                    head * group + index % group,
                    target,
                )
                cross[dtype, lanes](target, head_dim)
            else:
                fill_row(target, head_dim, 0)
    fill_row(partial, kv_heads * padded * head_dim, 0)
    fill_row(tops, kv_heads * padded, LOWEST)
    fill_row(sums, kv_heads * padded, 0)

    for start in range(first, end, _KEYS):
        var count = min(_KEYS, end - start)
        var page = Int(table.unsafe_load(start // PAGE))
        var offset = start % PAGE * width
        var keys = pages.keys(page).unsafe_offset(offset)
        var values = pages.values(page).unsafe_offset(offset)
        var next = start + _KEYS
        var next_keys = keys
        if next < end:
            next_keys = pages.keys(
                Int(table.unsafe_load(next // PAGE))
            ).unsafe_offset(next % PAGE * width)
        for index in range(0, count, TOGETHER[lanes]):
            for head in range(kv_heads):
                fetch[dtype, head_dim * TOGETHER[lanes]](
                    values.unsafe_offset(
                        index * width + head * head_dim * TOGETHER[lanes]
                    )
                )
                var source = keys.unsafe_offset(index * width + head * head_dim)
                for four in range(fours):
                    var block = head * fours + four
                    found.unsafe_store(
                        (block * _KEYS + index) * 4,
                        scores[dtype, head_dim, lanes](
                            source,
                            width,
                            count - 1 - index,
                            query.unsafe_offset(block * 4 * head_dim),
                        ),
                    )
        for head in range(kv_heads):
            for four in range(fours):
                var block = head * fours + four
                var weights = found.unsafe_offset(block * _KEYS * 4)
                var result = partial.unsafe_offset(block * 4 * head_dim)
                weigh_four[head_dim, lanes](
                    weights,
                    count,
                    tops.unsafe_offset(block * 4),
                    sums.unsafe_offset(block * 4),
                    result,
                )
                add_values[dtype, head_dim, lanes](
                    values.unsafe_offset(head * head_dim),
                    width,
                    count,
                    weights,
                    result,
                    next_keys.unsafe_offset(head * count * head_dim),
                    four == 0 and next < end,
                )
    for index in range(kv_heads * padded):
        uncross[dtype, lanes](partial.unsafe_offset(index * head_dim), head_dim)
    query.unsafe_free()
    found.unsafe_free()
