"""Attention of many query vectors: blocks of keys are packed once for all of them.

A task takes rows and one kv head, whose query heads share keys and values.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from std.math import ceildiv, fma
from std.memory.alloc import unsafe_alloc

from .lanes import (
    Floats,
    LOWEST,
    Lanes,
    fill_row,
    larger,
    load,
    power_of_2,
    scale_row,
)
from .pages import PAGE, Pages, Queries

comptime _KEY_PANEL = 24
"""Keys of a panel: three vectors, with four queries twelve sums in registers."""
comptime _VALUE_PANEL = 16
"""Dimensions of a panel: two vectors, with six queries twelve sums in registers."""
comptime _KEYS = 10 * _KEY_PANEL
"""Keys of a block: packed, they and their values take half of the second cache."""
comptime _STRIP = 12
"""Query vectors that go together; their scores stay in the first cache."""


def attend_many[
    dtype: DType, head_dim: Int
](
    pages: Pages[dtype],
    queries: Queries,
    rows: Pointer[Int, MutUntrackedOrigin],
    num_rows: Int,
    table: Pointer[UInt32, MutUntrackedOrigin],
    num_keys: Int,
    head: Int,
):
    """The attention of rows to all keys of a head.

    Args:
        pages: Keys and values.
        queries: The queries, and where the outcome goes.
        rows: Which of them.
        num_rows: How many.
        table: The pages that the rows read.
        num_keys: How many keys they hold.
        head: The kv head.
    """
    comptime value_panels = ceildiv(head_dim, _VALUE_PANEL)
    comptime width = value_panels * _VALUE_PANEL
    var group = queries.heads // pages.kv_heads
    var vectors = num_rows * group
    var padded = ceildiv(vectors, _STRIP) * _STRIP
    var query = _floats(padded * head_dim)
    var result = _floats(padded * width)
    var tops = _floats(padded)
    var sums = _floats(padded)
    var keys = _floats(_KEYS * head_dim)
    var values = _floats(_KEYS * width)
    var scores = _floats(_STRIP * _KEYS)
    for index in range(padded):
        var target = query.unsafe_offset(index * head_dim)
        if index < vectors:
            queries.normed(
                rows.unsafe_load(index // group),
                head * group + index % group,
                target,
            )
        else:
            fill_row(target, head_dim, 0)
    fill_row(result, padded * width, 0)
    fill_row(tops, padded, LOWEST)
    fill_row(sums, padded, 0)

    for first in range(0, num_keys, _KEYS):
        var count = min(_KEYS, num_keys - first)
        _pack_keys[dtype, head_dim](pages, table, head, first, count, keys)
        _pack_values[dtype, head_dim](pages, table, head, first, count, values)
        for start in range(0, padded, _STRIP):
            for panel in range(ceildiv(count, _KEY_PANEL)):
                comptime for row in range(0, _STRIP, 4):
                    _tile[4, 3, False](
                        query.unsafe_offset((start + row) * head_dim),
                        head_dim,
                        keys.unsafe_offset(panel * _KEY_PANEL * head_dim),
                        head_dim,
                        scores.unsafe_offset(row * _KEYS + panel * _KEY_PANEL),
                        _KEYS,
                    )
            for row in range(_STRIP):
                _weights(
                    scores.unsafe_offset(row * _KEYS),
                    count,
                    tops.unsafe_offset(start + row),
                    sums.unsafe_offset(start + row),
                    result.unsafe_offset((start + row) * width),
                    width,
                )
            for panel in range(value_panels):
                comptime for row in range(0, _STRIP, 6):
                    _tile[6, 2, True](
                        scores.unsafe_offset(row * _KEYS),
                        _KEYS,
                        values.unsafe_offset(panel * _VALUE_PANEL * _KEYS),
                        count,
                        result.unsafe_offset(
                            (start + row) * width + panel * _VALUE_PANEL
                        ),
                        width,
                    )
    for index in range(vectors):
        var factor = 1 / sums.unsafe_load(index)
        var source = result.unsafe_offset(index * width)
        var target = queries.result.unsafe_offset(
            queries.place(
                rows.unsafe_load(index // group), head * group + index % group
            )
        )
        for i in range(0, head_dim, 8):
            target.unsafe_store(i, source.unsafe_load[width=8](i) * factor)
    query.unsafe_free()
    result.unsafe_free()
    tops.unsafe_free()
    sums.unsafe_free()
    keys.unsafe_free()
    values.unsafe_free()
    scores.unsafe_free()


def _floats(count: Int) -> Floats:
    return unsafe_alloc[Float32](count, alignment=64)


@no_inline
def _tile[
    rows: Int, vectors: Int, adds: Bool
](
    left: Floats,
    left_stride: Int,
    panel: Floats,
    depth: Int,
    result: Floats,
    result_stride: Int,
):
    """`rows` x `8 * vectors` values of a product.

    Args:
        left: The first row of the left factor.
        left_stride: Values from one row to the next.
        panel: `[depth, 8 * vectors]`.
        depth: Terms of each sum.
        result: The first value, added to if `adds`, else overwritten.
        result_stride: Values from one row to the next.
    """
    var sums = Array[Lanes, rows * vectors](uninitialized=True)
    comptime for i in range(rows):
        comptime for j in range(vectors):
            comptime if adds:
                sums[i * vectors + j] = result.unsafe_load[width=8](
                    i * result_stride + j * 8
                )
            else:
                sums[i * vectors + j] = Lanes(0)
    for p in range(depth):
        var right = Array[Lanes, vectors](uninitialized=True)
        comptime for j in range(vectors):
            right[j] = panel.unsafe_load[width=8]((p * vectors + j) * 8)
        comptime for i in range(rows):
            var value = Lanes(left.unsafe_load(i * left_stride + p))
            comptime for j in range(vectors):
                sums[i * vectors + j] = fma(value, right[j], sums[i * vectors + j])
    comptime for i in range(rows):
        comptime for j in range(vectors):
            result.unsafe_store(i * result_stride + j * 8, sums[i * vectors + j])


@always_inline
def _weights(
    scores: Floats,
    count: Int,
    top: Floats,
    sum: Floats,
    result: Floats,
    width: Int,
):
    """A row of scores to powers of 2, relative to the largest so far."""
    for i in range(count, ceildiv(count, 8) * 8):
        scores.unsafe_store(i, LOWEST)
    var old = top.unsafe_load(0)
    var most = Array[Lanes, 2](fill=Lanes(old))
    var whole = ceildiv(count, 8) * 8
    var i = 0
    while i + 16 <= whole:
        comptime for j in range(2):
            most[j] = larger(scores.unsafe_load[width=8](i + j * 8), most[j])
        i += 16
    if i < whole:
        most[0] = larger(scores.unsafe_load[width=8](i), most[0])
    var new = larger(most[0], most[1]).reduce_max()
    var total = Array[Lanes, 2](fill=Lanes(0))
    i = 0
    while i + 16 <= whole:
        comptime for j in range(2):
            var power = power_of_2(scores.unsafe_load[width=8](i + j * 8) - new)
            scores.unsafe_store(i + j * 8, power)
            total[j] += power
        i += 16
    if i < whole:
        var power = power_of_2(scores.unsafe_load[width=8](i) - new)
        scores.unsafe_store(i, power)
        total[0] += power
    var factor = power_of_2(old - new)
    top.unsafe_store(0, new)
    sum.unsafe_store(
        0, fma(sum.unsafe_load(0), factor, (total[0] + total[1]).reduce_add())
    )
    if factor != 1:
        scale_row(result, width, factor)


def _pack_keys[
    dtype: DType, head_dim: Int
](
    pages: Pages[dtype],
    table: Pointer[UInt32, MutUntrackedOrigin],
    head: Int,
    first: Int,
    count: Int,
    panels: Floats,
):
    """Keys as panels `[head dim, _KEY_PANEL]`, filled up with zeros."""
    var width = pages.row_width()
    for start in range(0, ceildiv(count, _KEY_PANEL) * _KEY_PANEL, 8):
        var panel = panels.unsafe_offset(
            start // _KEY_PANEL * _KEY_PANEL * head_dim + start % _KEY_PANEL
        )
        var key = first + start
        var present = min(8, count - start)
        if present <= 0:
            for i in range(head_dim):
                panel.unsafe_store(i * _KEY_PANEL, Lanes(0))
            continue
        # A page holds a multiple of eight keys, so that these lie in one.
        var page = Int(table.unsafe_load(key // PAGE))
        var source = pages.keys(page).unsafe_offset(
            key % PAGE * width + head * head_dim
        )
        for i in range(0, head_dim, 8):
            var rows = Array[Lanes, 8](uninitialized=True)
            comptime for j in range(8):
                rows[j] = load(
                    source, j * width + i
                ) if j < present else Lanes(0)
            _transpose(rows)
            comptime for j in range(8):
                panel.unsafe_store((i + j) * _KEY_PANEL, rows[j])


@always_inline
def _transpose(mut rows: Array[Lanes, 8]):
    """Eight rows of eight to columns."""
    var pairs = Array[Lanes, 8](uninitialized=True)
    comptime for i in range(4):
        var a = rows[2 * i]
        var b = rows[2 * i + 1]
        pairs[2 * i] = a.shuffle[0, 8, 1, 9, 4, 12, 5, 13](b)
        pairs[2 * i + 1] = a.shuffle[2, 10, 3, 11, 6, 14, 7, 15](b)
    var fours = Array[Lanes, 8](uninitialized=True)
    comptime for i in range(2):
        comptime for j in range(2):
            var a = pairs[4 * i + j]
            var b = pairs[4 * i + 2 + j]
            fours[4 * i + 2 * j] = a.shuffle[0, 1, 8, 9, 4, 5, 12, 13](b)
            fours[4 * i + 2 * j + 1] = a.shuffle[2, 3, 10, 11, 6, 7, 14, 15](b)
    comptime for i in range(4):
        var a = fours[i]
        var b = fours[4 + i]
        rows[i] = a.shuffle[0, 1, 2, 3, 8, 9, 10, 11](b)
        rows[4 + i] = a.shuffle[4, 5, 6, 7, 12, 13, 14, 15](b)


def _pack_values[
    dtype: DType, head_dim: Int
](
    pages: Pages[dtype],
    table: Pointer[UInt32, MutUntrackedOrigin],
    head: Int,
    first: Int,
    count: Int,
    panels: Floats,
):
    """Values as panels `[_KEYS, _VALUE_PANEL]`, filled up with zeros."""
    comptime filled = ceildiv(head_dim, _VALUE_PANEL) * _VALUE_PANEL
    var width = pages.row_width()
    for index in range(count):
        var key = first + index
        var page = Int(table.unsafe_load(key // PAGE))
        var source = pages.values(page).unsafe_offset(
            key % PAGE * width + head * head_dim
        )
        comptime for i in range(0, filled, 8):
            comptime panel = i // _VALUE_PANEL * _VALUE_PANEL * _KEYS + i % 16
            panels.unsafe_store(
                panel + index * _VALUE_PANEL,
                load(source, i) if i < head_dim else Lanes(0),
            )
