"""Rows times the transpose of a matrix, as in a linear layer.

The matrix is packed into panels, as much at a time as stays in the last cache, and
every task multiplies a block of rows by all of them.
"""

from max.algorithm import sync_parallelize
from std.math import ceildiv, erf, sqrt
from std.memory.alloc import unsafe_alloc
from std.runtime import parallelism_level

from .tiles import PANEL, STRIP, Floats, Lanes, multiply, pack_columns

comptime _DEPTH = 320
"""Values of a row that are multiplied before the next rows: a panel of so many fits
the first cache beside the rows' own."""
comptime _ROWS = 144
"""Rows of a task, about: so many of that depth leave half of the second cache."""
comptime _PACKED = 1 << 21
"""Values that are packed at a time, about."""


def multiply_rows[
    dtype: DType, gelu: Bool
](
    left: Floats,
    rows: Int,
    depth: Int,
    matrix: Pointer[Scalar[dtype], MutAnyOrigin],
    columns: Int,
    bias: Floats,
    has_bias: Bool,
    result: Floats,
):
    """Rows times the transpose of a matrix, plus a bias, through an activation.

    Parameters:
        dtype: Of the matrix: float32, float16 or bfloat16.
        gelu: Whether the exact GELU follows.

    Args:
        left: `[rows, depth]`.
        rows: How many there are.
        depth: Terms of each sum.
        matrix: `[columns, depth]`; it may be unaligned.
        columns: Of the result.
        bias: `[columns]`.
        has_bias: Whether it is added.
        result: `[rows, columns]`.
    """
    if rows == 0 or columns == 0:
        return
    var slices = max(1, ceildiv(depth, _DEPTH))
    var slice = ceildiv(ceildiv(depth, slices), 8) * 8
    var panels_at_once = max(1, _PACKED // (max(1, depth) * PANEL))
    # As many tasks for each core, so that they end together.
    var workers = parallelism_level()
    var tasks = ceildiv(ceildiv(rows, _ROWS), workers) * workers
    var task_rows = ceildiv(ceildiv(rows, tasks), STRIP) * STRIP
    tasks = ceildiv(rows, task_rows)
    var packed = unsafe_alloc[Float32](
        min(panels_at_once, ceildiv(columns, PANEL)) * PANEL * slices * slice,
        alignment=64,
    ).as_unsafe_any_origin()

    for first in range(0, columns, panels_at_once * PANEL):
        var end = min(columns, first + panels_at_once * PANEL)
        var panels = ceildiv(end - first, PANEL)

        def pack(index: Int) {imm}:
            var column = first + index * PANEL
            for i in range(slices):
                var start = i * slice
                pack_columns(
                    matrix.unsafe_offset(column * depth + start),
                    depth,
                    min(PANEL, end - column),
                    min(slice, depth - start),
                    1,
                    packed.unsafe_offset((i * panels + index) * slice * PANEL),
                )

        def work(task: Int) {imm}:
            var row = task * task_rows
            var count = min(task_rows, rows - row)
            for i in range(slices):
                var start = i * slice
                for index in range(panels):
                    var column = first + index * PANEL
                    var width = min(PANEL, end - column)
                    var place = row * columns + column
                    _multiply_block(
                        left.unsafe_offset(row * depth + start),
                        depth,
                        count,
                        packed.unsafe_offset((i * panels + index) * slice * PANEL),
                        max(0, min(slice, depth - start)),
                        width,
                        result.unsafe_offset(place),
                        columns,
                        i > 0,
                    )
                    if i == slices - 1 and (has_bias or gelu):
                        _finish[gelu](
                            result.unsafe_offset(place),
                            columns,
                            count,
                            width,
                            bias.unsafe_offset(column),
                            has_bias,
                        )

        sync_parallelize(pack, panels)
        sync_parallelize(work, tasks)
    packed.unsafe_free()


@always_inline
def _multiply_block(
    left: Floats,
    left_stride: Int,
    rows: Int,
    panel: Floats,
    depth: Int,
    columns: Int,
    result: Floats,
    result_stride: Int,
    adds: Bool,
):
    """As `multiply`, but nothing is written beyond the columns."""
    if columns % 8 == 0:
        if adds:
            multiply[True](
                left, left_stride, rows, panel, depth, columns, result, result_stride
            )
        else:
            multiply[False](
                left, left_stride, rows, panel, depth, columns, result, result_stride
            )
        return
    var tile = Array[Float32, STRIP * PANEL](uninitialized=True)
    var values = tile.unsafe_ptr().as_unsafe_any_origin()
    for start in range(0, rows, STRIP):
        var count = min(STRIP, rows - start)
        multiply[False](
            left.unsafe_offset(start * left_stride),
            left_stride,
            count,
            panel,
            depth,
            columns,
            values,
            PANEL,
        )
        for row in range(count):
            for column in range(columns):
                var place = (start + row) * result_stride + column
                var value = values.unsafe_load(row * PANEL + column)
                if adds:
                    value += result.unsafe_load(place)
                result.unsafe_store(place, value)


@always_inline
def _finish[
    gelu: Bool
](
    result: Floats,
    stride: Int,
    rows: Int,
    columns: Int,
    bias: Floats,
    has_bias: Bool,
):
    """Adds the bias and applies the activation to a block of the result."""
    for row in range(rows):
        var place = row * stride
        var column = 0
        while column + 8 <= columns:
            var added = bias.unsafe_load[width=8, alignment=1](
                column
            ) if has_bias else Lanes(0)
            var value = result.unsafe_load[width=8](place + column) + added
            result.unsafe_store(place + column, _activated[gelu](value))
            column += 8
        while column < columns:
            var added = bias.unsafe_load[alignment=1](
                column
            ) if has_bias else Float32(0)
            var value = result.unsafe_load(place + column) + added
            result.unsafe_store(place + column, _activated[gelu](value))
            column += 1


@always_inline
def _activated[gelu: Bool](value: SIMD[DType.float32, _]) -> type_of(value):
    comptime if gelu:
        return value * 0.5 * (1 + erf(value * sqrt(Float32(0.5))))
    else:
        return value
