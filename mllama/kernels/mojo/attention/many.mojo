"""Attention of many query vectors: blocks of keys are packed once for all of them.

A task takes rows and one kv head, whose query heads share keys and values.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from std.math import ceildiv
from std.memory.alloc import unsafe_alloc

from .lanes import LOWEST, Floats, Lanes, fill_row, load, transpose
from .pages import PAGE, Pages, Queries
from .softmax import weigh
from .tiles import PANEL, STRIP, strip

comptime _VALUE_PANEL[lanes: Int] = 2 * lanes
"""Dimensions of a panel: two vectors, of which common widths of heads are multiples."""
comptime _KEYS = 240
"""Keys of a block: packed, they and their values take half of the second cache."""


def attend_many[
    dtype: DType, head_dim: Int, lanes: Int
](
    pages: Pages[dtype],
    queries: Queries,
    rows: Pointer[Int, MutUntrackedOrigin],
    num_rows: Int,
    table: Pointer[UInt32, MutUntrackedOrigin],
    seen: Int,
    causal: Bool,
    head: Int,
):
    """The attention of rows to the keys of a head.

    Args:
        pages: Keys and values.
        queries: The queries, and where the outcome goes.
        rows: Which of them.
        num_rows: How many.
        table: The pages that the rows read.
        seen: How many keys the first row sees.
        causal: Whether each further row sees one more, else they see the same.
        head: The kv head.
    """
    comptime height = STRIP[lanes]
    comptime key_panel = PANEL[lanes]
    comptime value_panel = _VALUE_PANEL[lanes]
    comptime value_panels = ceildiv(head_dim, value_panel)
    comptime width = value_panels * value_panel
    var group = queries.heads // pages.kv_heads
    var vectors = num_rows * group
    var padded = ceildiv(vectors, height) * height
    # A vector sees `seen + index // vectors_a_key` keys.
    var vectors_a_key = group if causal else padded
    var num_keys = seen + (vectors - 1) // vectors_a_key
    var query = _floats(padded * head_dim)
    var result = _floats(padded * width)
    var tops = _floats(padded)
    var sums = _floats(padded)
    var keys = _floats(_KEYS * head_dim)
    var values = _floats(_KEYS * width)
    var scores = _floats(height * _KEYS)
    for index in range(padded):
        var target = query.unsafe_offset(index * head_dim)
        if index < vectors:
            queries.prepared(
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
        _pack_keys[dtype, head_dim, key_panel](pages, table, head, first, count, keys)
        _pack_values[dtype, head_dim, value_panel](pages, table, head, first, count, values)
        for start in range(0, padded, height):
            var last = min(start + height, vectors) - 1
            var used = min(count, seen + last // vectors_a_key - first)
            if used <= 0:
                continue
            for panel in range(ceildiv(used, key_panel)):
                strip[lanes, 3, False, key_panel](
                    query.unsafe_offset(start * head_dim),
                    head_dim,
                    height,
                    keys.unsafe_offset(panel * key_panel * head_dim),
                    head_dim,
                    scores.unsafe_offset(panel * key_panel),
                    _KEYS,
                )
            for row in range(height):
                var index = start + row
                var weights = scores.unsafe_offset(row * _KEYS)
                var own = max(
                    0, min(used, seen + index // vectors_a_key - first)
                )
                if own > 0:
                    weigh[lanes](
                        weights,
                        own,
                        tops.unsafe_offset(index),
                        sums.unsafe_offset(index),
                        result.unsafe_offset(index * width),
                        width,
                    )
                fill_row(weights.unsafe_offset(own), used - own, 0)
            for panel in range(value_panels):
                strip[lanes, 2, True, value_panel](
                    scores,
                    _KEYS,
                    height,
                    values.unsafe_offset(panel * value_panel * _KEYS),
                    used,
                    result.unsafe_offset(start * width + panel * value_panel),
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


def _pack_keys[
    dtype: DType, head_dim: Int, panel_width: Int
](
    pages: Pages[dtype],
    table: Pointer[UInt32, MutUntrackedOrigin],
    head: Int,
    first: Int,
    count: Int,
    panels: Floats,
):
    """Keys as panels `[head dim, panel_width]`, filled up with zeros."""
    var width = pages.row_width()
    for start in range(0, ceildiv(count, panel_width) * panel_width, 8):
        var panel = panels.unsafe_offset(
            start // panel_width * panel_width * head_dim + start % panel_width
        )
        var key = first + start
        var present = min(8, count - start)
        if present <= 0:
            for i in range(head_dim):
                panel.unsafe_store(i * panel_width, Lanes[8](0))
            continue
        # A page holds a multiple of eight keys, so that these lie in one.
        var page = Int(table.unsafe_load(key // PAGE))
        var source = pages.keys(page).unsafe_offset(
            key % PAGE * width + head * head_dim
        )
        for i in range(0, head_dim, 8):
            var rows = Array[Lanes[8], 8](uninitialized=True)
            comptime for j in range(8):
                rows[j] = load[8](
                    source, j * width + i
                ) if j < present else Lanes[8](0)
            transpose(rows)
            comptime for j in range(8):
                panel.unsafe_store((i + j) * panel_width, rows[j])


def _pack_values[
    dtype: DType, head_dim: Int, panel_width: Int
](
    pages: Pages[dtype],
    table: Pointer[UInt32, MutUntrackedOrigin],
    head: Int,
    first: Int,
    count: Int,
    panels: Floats,
):
    """Values as panels `[_KEYS, panel_width]`, filled up with zeros."""
    comptime filled = ceildiv(head_dim, panel_width) * panel_width
    var width = pages.row_width()
    for index in range(count):
        var key = first + index
        var page = Int(table.unsafe_load(key // PAGE))
        var source = pages.values(page).unsafe_offset(
            key % PAGE * width + head * head_dim
        )
        comptime for i in range(0, filled, 8):
            comptime panel = i // panel_width * panel_width * _KEYS + i % panel_width
            panels.unsafe_store(
                panel + index * panel_width,
                load[8](source, i) if i < head_dim else Lanes[8](0),
            )
