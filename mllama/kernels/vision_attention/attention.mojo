"""Attention without a mask over rows of which the first are real.

Real rows attend to all rows, the others (padding) to the real ones.  A block of queries
meets a block of keys at a time; their scores stay in the first cache, and the sums are
corrected when a larger score turns up.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from max.algorithm import sync_parallelize
from std.math import ceildiv, fma
from std.memory.alloc import unsafe_alloc
from std.runtime import parallelism_level

from .tiles import PANEL, STRIP, Floats, Lanes, multiply, pack_columns

comptime _KEYS = 10 * PANEL
"""Keys of a block: packed with their values, they leave half of the second cache."""
comptime _QUERIES = 96
"""Queries of a task, about."""
comptime _LOG2_E = Float32(1.4426950408889634)


def attend(
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
    var stride = heads * head_dim
    var blocks = ceildiv(rows, _KEYS)
    var value_panels = ceildiv(head_dim, PANEL)
    var value_width = value_panels * PANEL
    var packed_keys = unsafe_alloc[Float32](
        blocks * _KEYS * head_dim, alignment=64
    ).as_unsafe_any_origin()
    var packed_values = unsafe_alloc[Float32](
        blocks * _KEYS * value_width, alignment=64
    ).as_unsafe_any_origin()

    var real_rows = _task_rows(real)
    var padding_rows = _task_rows(rows - real)
    var real_tasks = ceildiv(real, real_rows)
    var tasks = real_tasks + ceildiv(rows - real, padding_rows)
    for image in range(images):
        for head in range(heads):
            var start = image * rows * stride + head * head_dim

            def pack(block: Int) {imm}:
                var first = block * _KEYS
                var count = min(_KEYS, rows - first)
                var place = start + first * stride
                for panel in range(ceildiv(count, PANEL)):
                    pack_columns(
                        key.unsafe_offset(place + panel * PANEL * stride),
                        stride,
                        min(PANEL, count - panel * PANEL),
                        head_dim,
                        scale * _LOG2_E,
                        packed_keys.unsafe_offset(
                            (first + panel * PANEL) * head_dim
                        ),
                    )
                for panel in range(value_panels):
                    var column = panel * PANEL
                    _pack_values(
                        value.unsafe_offset(place + column),
                        stride,
                        count,
                        min(PANEL, head_dim - column),
                        packed_values.unsafe_offset(
                            first * value_width + column * _KEYS
                        ),
                    )

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
                _attend_block(
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


def _task_rows(rows: Int) -> Int:
    """Rows of a task, of which every core gets as many."""
    var workers = parallelism_level()
    var tasks = max(1, ceildiv(ceildiv(rows, _QUERIES), workers) * workers)
    return max(1, ceildiv(ceildiv(rows, tasks), STRIP)) * STRIP


@always_inline
def _pack_values(
    rows: Floats, stride: Int, count: Int, width: Int, panel: Floats
):
    """Columns of rows as a panel `[count, PANEL]`, the rest zeros."""
    for row in range(count):
        for column in range(0, PANEL, 8):
            panel.unsafe_store(
                row * PANEL + column,
                rows.unsafe_load[width=8](row * stride + column) if column
                < width else Lanes(0),
            )


@no_inline
def _attend_block(
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
        packed_keys: Of the head, block by block, panel by panel `[head_dim, PANEL]`.
        packed_values: Of the head, block by block, panel by panel `[_KEYS, PANEL]`.
        result: As `query`.
        stride: Values from one row to the next.
        rows: How many queries there are.
        keys: How many there are.
        head_dim: A multiple of 8.
    """
    var panels = ceildiv(head_dim, PANEL)
    var width = panels * PANEL
    var scores = unsafe_alloc[Float32](
        STRIP * _KEYS, alignment=64
    ).as_unsafe_any_origin()
    var tops = unsafe_alloc[Float32](rows).as_unsafe_any_origin()
    var sums = unsafe_alloc[Float32](rows).as_unsafe_any_origin()
    for row in range(rows):
        tops.unsafe_store(row, Float32.MIN)
        sums.unsafe_store(row, Float32(0))
        for column in range(0, head_dim, 8):
            result.unsafe_store(row * stride + column, Lanes(0))

    for first in range(0, keys, _KEYS):
        var count = min(_KEYS, keys - first)
        var block_keys = packed_keys.unsafe_offset(first * head_dim)
        var block_values = packed_values.unsafe_offset(first * width)
        for start in range(0, rows, STRIP):
            var strip = min(STRIP, rows - start)
            for panel in range(ceildiv(count, PANEL)):
                multiply[False](
                    query.unsafe_offset(start * stride),
                    stride,
                    strip,
                    block_keys.unsafe_offset(panel * PANEL * head_dim),
                    head_dim,
                    min(PANEL, count - panel * PANEL),
                    scores.unsafe_offset(panel * PANEL),
                    _KEYS,
                )
            for row in range(strip):
                var old = tops.unsafe_load(start + row)
                var weights = scores.unsafe_offset(row * _KEYS)
                var top = _largest(weights, count, old)
                var factor = _power_of_2(Lanes(old - top))[0]
                var sum = _exponentials(weights, count, top)
                tops.unsafe_store(start + row, top)
                sums.unsafe_store(
                    start + row, fma(sums.unsafe_load(start + row), factor, sum)
                )
                if factor != 1:
                    _scale(
                        result.unsafe_offset((start + row) * stride), head_dim, factor
                    )
            for panel in range(panels):
                multiply[True](
                    scores,
                    _KEYS,
                    strip,
                    block_values.unsafe_offset(panel * PANEL * _KEYS),
                    count,
                    min(PANEL, head_dim - panel * PANEL),
                    result.unsafe_offset(start * stride + panel * PANEL),
                    stride,
                )
    for row in range(rows):
        if keys > 0:
            _scale(
                result.unsafe_offset(row * stride),
                head_dim,
                1 / sums.unsafe_load(row),
            )
    scores.unsafe_free()
    tops.unsafe_free()
    sums.unsafe_free()


@always_inline
def _scale(values: Floats, count: Int, factor: Float32):
    for i in range(0, count, 8):
        values.unsafe_store(i, values.unsafe_load[width=8](i) * factor)


@always_inline
def _larger(a: SIMD[DType.float32, _], b: type_of(a)) -> type_of(a):
    """The larger of two, `b` if one is no number."""
    return a.gt(b).select(a, b)


@always_inline
def _largest(values: Floats, count: Int, least: Float32) -> Float32:
    """The largest of the values and `least`."""
    var tops = Array[Lanes, 4](fill=Lanes(least))
    var i = 0
    while i + 32 <= count:
        comptime for j in range(4):
            tops[j] = _larger(values.unsafe_load[width=8](i + j * 8), tops[j])
        i += 32
    while i + 8 <= count:
        tops[0] = _larger(values.unsafe_load[width=8](i), tops[0])
        i += 8
    var top = _larger(
        _larger(tops[0], tops[1]), _larger(tops[2], tops[3])
    ).reduce_max()
    while i < count:
        top = max(top, values.unsafe_load(i))
        i += 1
    return top


@always_inline
def _exponentials(values: Floats, count: Int, top: Float32) -> Float32:
    """Replaces values by powers of 2, `top` subtracted.

    Returns:
        Their sum.
    """
    var sums = Array[Lanes, 2](fill=Lanes(0))
    var i = 0
    while i + 16 <= count:
        comptime for j in range(2):
            var power = _power_of_2(values.unsafe_load[width=8](i + j * 8) - top)
            values.unsafe_store(i + j * 8, power)
            sums[j] += power
        i += 16
    var sum = (sums[0] + sums[1]).reduce_add()
    while i < count:
        var power = _power_of_2(Lanes(values.unsafe_load(i) - top))[0]
        values.unsafe_store(i, power)
        sum += power
        i += 1
    return sum


@always_inline
def _power_of_2(exponent: Lanes) -> Lanes:
    """2 to the power of numbers that aren't positive, to 1e-7; no number stays none."""
    comptime least = Lanes(-126)
    comptime shift = Lanes(12582912)  # 1.5 * 2 to the 23rd: adding it rounds.
    var clamped = exponent.lt(least).select(least, exponent)
    var shifted = clamped + shift
    var rest = clamped - (shifted - shift)
    var power = fma(rest, Lanes(0.00015345812), Lanes(0.0013399931))
    power = fma(rest, power, Lanes(0.009618489))
    power = fma(rest, power, Lanes(0.055503288))
    power = fma(rest, power, Lanes(0.24022647))
    power = fma(rest, power, Lanes(0.6931472))
    power = fma(rest, power, Lanes(1))
    var bits = shifted.to_bits[DType.uint32]() << 23
    return Lanes(from_bits=power.to_bits[DType.uint32]() + bits)
