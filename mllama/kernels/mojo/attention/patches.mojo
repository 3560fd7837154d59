"""Attention without a mask over rows of which the first are real.

Real rows attend to all rows, the others (padding) to the real ones.  A block of queries
meets a block of keys at a time; their scores stay in the first cache, and the sums are
corrected when a larger score turns up.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from max.algorithm import sync_parallelize
from std.math import ceildiv
from std.memory import unsafe_stack_allocation
from std.memory.alloc import unsafe_alloc
from std.runtime import parallelism_level

from .lanes import LOG2_E, LOWEST, Floats, Lanes, fill_row
from .softmax import weigh
from .tiles import (
    PANEL,
    STRIP,
    multiply,
    pack_columns,
    pair_rows,
    pair_values,
)

comptime _KEYS = 240
"""Keys of a block: packed with their values, they leave half of the second cache."""
comptime _QUERIES = 96
"""Queries of a task, about."""


def attend_patches[
    lanes: Int, pairs: Bool
](
    query: Floats,
    key: Floats,
    value: Floats,
    result: Floats,
    images: Int,
    rows: Int,
    real: Int,
    heads: Int,
    head_dim: Int,
    scale: Float32,
):
    """Attention of all heads of all images.

    Parameters:
        lanes: Of a vector.
        pairs: Whether factors are rounded to bfloat16 and multiplied in pairs.

    Args:
        query: `[images, rows, heads * head_dim]`.
        key: As `query`.
        value: As `query`.
        result: As `query`; padding rows are zeros if no row is real.
        images: How many there are.
        rows: Of each image.
        real: How many of them are real; they come first.
        heads: How many there are.
        head_dim: Of each.
        scale: Of the scores.
    """
    comptime width = PANEL[lanes]
    var stride = heads * head_dim
    var blocks = ceildiv(rows, _KEYS)
    var value_panels = ceildiv(head_dim, width)
    var value_width = value_panels * width
    var packed_keys = unsafe_alloc[Float32](
        blocks * _KEYS * head_dim, alignment=64
    )
    var packed_values = unsafe_alloc[Float32](
        blocks * _KEYS * value_width, alignment=64
    )

    var real_rows = _task_rows[lanes](real)
    var padding_rows = _task_rows[lanes](rows - real)
    var real_tasks = ceildiv(real, real_rows)
    var tasks = real_tasks + ceildiv(rows - real, padding_rows)
    for image in range(images):
        for head in range(heads):
            var start = image * rows * stride + head * head_dim

            def pack(block: Int) {imm}:
                var first = block * _KEYS
                var count = min(_KEYS, rows - first)
                var place = start + first * stride
                for panel in range(ceildiv(count, width)):
                    var target = packed_keys.unsafe_offset(
                        (first + panel * width) * head_dim
                    )
                    pack_columns[width](
                        key.unsafe_offset(place + panel * width * stride),
                        stride,
                        min(width, count - panel * width),
                        head_dim,
                        scale * LOG2_E,
                        target,
                    )
                    comptime if pairs:
                        pair_rows[width](target, head_dim)
                for panel in range(value_panels):
                    var column = panel * width
                    var target = packed_values.unsafe_offset(
                        first * value_width + column * _KEYS
                    )
                    _pack_values[width](
                        value.unsafe_offset(place + column),
                        stride,
                        count,
                        min(width, head_dim - column),
                        target,
                    )
                    comptime if pairs:
                        pair_rows[width](target, count)

            def work(task: Int) {imm}:
                var is_real = task < real_tasks
                var first = (
                    task * real_rows if is_real else real
                    + (task - real_tasks) * padding_rows
                )
                var end = (
                    min(real, first + real_rows) if is_real else min(
                        rows, first + padding_rows
                    )
                )
                _attend_block[lanes, pairs](
                    query.unsafe_offset(start + first * stride),
                    packed_keys,
                    packed_values,
                    result.unsafe_offset(start + first * stride),
                    stride,
                    end - first,
                    rows if is_real else real,
                    head_dim,
                )

            sync_parallelize(pack, blocks)
            sync_parallelize(work, tasks)
    packed_keys.unsafe_free()
    packed_values.unsafe_free()


def _task_rows[lanes: Int](rows: Int) -> Int:
    """Rows of a task, of which every core gets as many."""
    var workers = parallelism_level()
    var tasks = max(1, ceildiv(ceildiv(rows, _QUERIES), workers) * workers)
    comptime strip = STRIP[lanes]
    return max(1, ceildiv(ceildiv(rows, tasks), strip)) * strip


@always_inline
def _pack_values[
    width: Int
](rows: Floats, stride: Int, count: Int, columns: Int, panel: Floats):
    """Columns of rows as a panel `[count, width]`, the rest zeros."""
    for row in range(count):
        for column in range(0, width, 8):
            panel.unsafe_store(
                row * width + column,
                rows.unsafe_load[width=8](row * stride + column) if column
                < columns else Lanes[8](0),
            )


@no_inline
def _attend_block[
    lanes: Int, pairs: Bool
](
    query: Floats,
    packed_keys: Floats,
    packed_values: Floats,
    result: Floats,
    stride: Int,
    rows: Int,
    keys: Int,
    head_dim: Int,
):
    """Attention of a task's queries.

    Args:
        query: The first; the next are `stride` apart.
        packed_keys: Of the head, block by block, panel by panel `[head_dim, width]`.
        packed_values: Of the head, block by block, panel by panel `[_KEYS, width]`.
        result: As `query`.
        stride: Values from one row to the next.
        rows: How many queries there are.
        keys: How many there are.
        head_dim: A multiple of the lanes.
    """
    comptime height = STRIP[lanes]
    comptime width = PANEL[lanes]
    var panels = ceildiv(head_dim, width)
    var scores = unsafe_alloc[Float32](
        height * _KEYS, alignment=64
    )
    var tops = unsafe_alloc[Float32](rows)
    var sums = unsafe_alloc[Float32](rows)
    var last = rebind[Floats](
        unsafe_stack_allocation[PANEL[lanes], Float32, alignment=64]()
    )
    # Rows of the states lie pages apart; these are side by side.
    var own = unsafe_alloc[Float32](rows * head_dim, alignment=64)
    var attended = unsafe_alloc[Float32](rows * head_dim, alignment=64)
    for row in range(rows):
        for d in range(0, head_dim, lanes):
            own.unsafe_store(
                row * head_dim + d,
                query.unsafe_load[width=lanes](row * stride + d),
            )
        comptime if pairs:
            pair_values[lanes](own.unsafe_offset(row * head_dim), head_dim)
    fill_row(attended, rows * head_dim, 0)
    fill_row(tops, rows, LOWEST)
    fill_row(sums, rows, 0)

    for first in range(0, keys, _KEYS):
        var count = min(_KEYS, keys - first)
        var block_keys = packed_keys.unsafe_offset(first * head_dim)
        var block_values = packed_values.unsafe_offset(first * panels * width)
        for start in range(0, rows, height):
            var strip = min(height, rows - start)
            for panel in range(ceildiv(count, width)):
                multiply[lanes, False, pairs](
                    own.unsafe_offset(start * head_dim),
                    head_dim,
                    strip,
                    block_keys.unsafe_offset(panel * width * head_dim),
                    head_dim // 2 if pairs else head_dim,
                    min(width, count - panel * width),
                    scores.unsafe_offset(panel * width),
                    _KEYS,
                )
            for row in range(strip):
                weigh[lanes, pairs](
                    scores.unsafe_offset(row * _KEYS),
                    count,
                    tops.unsafe_offset(start + row),
                    sums.unsafe_offset(start + row),
                    attended.unsafe_offset((start + row) * head_dim),
                    head_dim,
                )
            for panel in range(panels):
                var some = block_values.unsafe_offset(panel * width * _KEYS)
                var columns = min(width, head_dim - panel * width)
                var target = attended.unsafe_offset(start * head_dim + panel * width)
                multiply[lanes, True, pairs](
                    scores,
                    _KEYS,
                    strip,
                    some,
                    count // 2 if pairs else count,
                    columns,
                    target,
                    head_dim,
                )
                comptime if pairs:
                    if count % 2 == 1:
                        _without_partners[lanes](
                            some.unsafe_offset(count // 2 * width), last
                        )
                        multiply[lanes, True, pairs](
                            scores.unsafe_offset(count // 2),
                            _KEYS,
                            strip,
                            last,
                            1,
                            columns,
                            target,
                            head_dim,
                        )
    for row in range(rows):
        var factor = 1 / sums.unsafe_load(row) if keys > 0 else Float32(0)
        for d in range(0, head_dim, lanes):
            var some = attended.unsafe_load[width=lanes](row * head_dim + d)
            result.unsafe_store(row * stride + d, some * factor)
    own.unsafe_free()
    attended.unsafe_free()
    scores.unsafe_free()
    tops.unsafe_free()
    sums.unsafe_free()


@always_inline
def _without_partners[lanes: Int](pairs: Floats, target: Floats):
    """A row of a panel of pairs with zeros for the second of each.

    A last key that is odd lies beside one that isn't attended to, and may not be finite.
    """
    for column in range(0, PANEL[lanes], lanes):
        var bits = pairs.unsafe_load[width=lanes](column).to_bits[DType.uint32]()
        target.unsafe_store(column, Lanes[lanes](from_bits=bits & 0xFFFF))
