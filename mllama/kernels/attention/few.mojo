"""Attention of few query vectors: keys and values are streamed once, as they lie.

A task takes a range of the keys, all heads of a row at a time, so that memory is read
in order; its sums are merged with those of the other tasks at the end.

Source: Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from std.math import fma
from std.memory.alloc import unsafe_alloc
from std.sys import size_of
from std.sys.intrinsics import PrefetchOptions, prefetch

from .lanes import (
    Floats,
    LOWEST,
    Lanes,
    fill_row,
    half_sums,
    larger,
    load,
    pair_sums,
    power_of_2,
    scale_row,
)
from .pages import PAGE, Pages, Queries
from .partials import blocks_of_four

comptime _READ = PrefetchOptions().for_read().high_locality().to_data_cache()
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
    var scores = unsafe_alloc[Float32](
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
        for index in range(0, count, 2):
            # An odd last key is its own partner.
            var second = min(index + 1, count - 1)
            for head in range(kv_heads):
                _fetch[dtype, head_dim](
                    values.unsafe_offset(index * width + head * head_dim)
                )
                _fetch[dtype, head_dim](
                    values.unsafe_offset(second * width + head * head_dim)
                )
                for four in range(fours):
                    var block = head * fours + four
                    scores.unsafe_store(
                        (block * _KEYS + index) * 4,
                        _scores[dtype, head_dim, lanes](
                            keys.unsafe_offset(index * width + head * head_dim),
                            keys.unsafe_offset(second * width + head * head_dim),
                            query.unsafe_offset(block * 4 * head_dim),
                        ),
                    )
        for block in range(kv_heads * fours):
            _weights[head_dim](
                scores.unsafe_offset(block * _KEYS * 4),
                count,
                tops.unsafe_offset(block * 4),
                sums.unsafe_offset(block * 4),
                partial.unsafe_offset(block * 4 * head_dim),
            )
        for index in range(0, count, 4):
            for head in range(kv_heads):
                if next < end:
                    comptime for j in range(4):
                        _fetch[dtype, head_dim](
                            next_keys.unsafe_offset((index + j) * width + head * head_dim)
                        )
                var source = values.unsafe_offset(head * head_dim)
                for four in range(fours):
                    var block = head * fours + four
                    _add_values[dtype, head_dim, lanes](
                        source,
                        width,
                        index,
                        count - 1,
                        scores.unsafe_offset((block * _KEYS + index) * 4),
                        partial.unsafe_offset(block * 4 * head_dim),
                    )
    query.unsafe_free()
    scores.unsafe_free()


@always_inline
def _fetch[
    dtype: DType, head_dim: Int
](vector: Pointer[Scalar[dtype], MutUntrackedOrigin]):
    """Asks for a vector that is needed soon: the next phase's, while this one computes.
    """
    comptime line = 64 // size_of[dtype]()
    comptime for i in range(0, head_dim, line):
        prefetch[_READ](vector.unsafe_offset(i))


@always_inline
def _scores[
    dtype: DType, head_dim: Int, lanes: Int
](
    first: Pointer[Scalar[dtype], MutUntrackedOrigin],
    second: Pointer[Scalar[dtype], MutUntrackedOrigin],
    query: Floats,
) -> Lanes[8]:
    """Products of two keys with four queries: the first key's, then the second's."""
    var sums = Array[Lanes[lanes], 8](fill=Lanes[lanes](0))
    for i in range(0, head_dim, lanes):
        var key = load[lanes](first, i)
        var other = load[lanes](second, i)
        comptime for j in range(4):
            var some = query.unsafe_load[width=lanes](j * head_dim + i)
            sums[j] = fma(some, key, sums[j])
            sums[4 + j] = fma(some, other, sums[4 + j])
    var products = Array[Lanes[8], 8](uninitialized=True)
    comptime for j in range(8):
        products[j] = half_sums(sums[j])
    var low = pair_sums(
        pair_sums(products[0], products[1]), pair_sums(products[2], products[3])
    )
    var high = pair_sums(
        pair_sums(products[4], products[5]), pair_sums(products[6], products[7])
    )
    return low.shuffle[0, 1, 2, 3, 8, 9, 10, 11](high) + low.shuffle[
        4, 5, 6, 7, 12, 13, 14, 15
    ](high)


@always_inline
def _weights[
    head_dim: Int
](scores: Floats, count: Int, tops: Floats, sums: Floats, result: Floats):
    """Scores `[keys, 4]` to powers of 2, relative to the largest so far.

    Up to a multiple of four keys, those beyond the last become zeros.
    """
    if count % 2 == 1:
        scores.unsafe_store(count * 4, Lanes[4](LOWEST))
    var most = Lanes[8](LOWEST)
    for i in range(0, count * 4, 8):
        most = larger(scores.unsafe_load[width=8](i), most)
    var old = tops.unsafe_load[width=4](0)
    var top = larger(larger(most.slice[4](), most.slice[4, offset=4]()), old)
    var both = top.join(top)
    var sum = Lanes[8](0)
    for i in range(0, count * 4, 8):
        var power = power_of_2(scores.unsafe_load[width=8](i) - both)
        scores.unsafe_store(i, power)
        sum += power
    for i in range(count, (count + 3) // 4 * 4):
        scores.unsafe_store(i * 4, Lanes[4](0))
    var factor = power_of_2(old - top)
    tops.unsafe_store(0, top)
    sums.unsafe_store(
        0,
        fma(
            sums.unsafe_load[width=4](0),
            factor,
            sum.slice[4]() + sum.slice[4, offset=4](),
        ),
    )
    comptime for j in range(4):
        if factor[j] != 1:
            scale_row[8](result.unsafe_offset(j * head_dim), head_dim, factor[j])


@always_inline
def _add_values[
    dtype: DType, head_dim: Int, lanes: Int
](
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    width: Int,
    index: Int,
    last: Int,
    weights: Floats,
    result: Floats,
):
    """Adds four keys' values, weighted, to the sums of four queries.

    Keys beyond the last have no weight: the last one's values stand for theirs.
    """
    var first = values.unsafe_offset(index * width)
    var second = values.unsafe_offset(min(index + 1, last) * width)
    var third = values.unsafe_offset(min(index + 2, last) * width)
    var fourth = values.unsafe_offset(min(index + 3, last) * width)
    # As many queries at a time as there are registers for the weights.
    comptime together = lanes // 4
    comptime for start in range(0, 4, together):
        var weight = Array[Lanes[lanes], 4 * together](uninitialized=True)
        comptime for i in range(4):
            comptime for j in range(together):
                weight[i * together + j] = Lanes[lanes](
                    weights.unsafe_load(i * 4 + start + j)
                )
        var row = result.unsafe_offset(start * head_dim)
        for i in range(0, head_dim, lanes):
            var a = load[lanes](first, i)
            var b = load[lanes](second, i)
            var c = load[lanes](third, i)
            var d = load[lanes](fourth, i)
            comptime for j in range(together):
                var sum = row.unsafe_load[width=lanes](j * head_dim + i)
                sum = fma(weight[j], a, sum)
                sum = fma(weight[together + j], b, sum)
                sum = fma(weight[2 * together + j], c, sum)
                sum = fma(weight[3 * together + j], d, sum)
                row.unsafe_store(j * head_dim + i, sum)
