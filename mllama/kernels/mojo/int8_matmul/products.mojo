"""Rows times tiles of columns, rows shared out among the cores."""

from max.algorithm import sync_parallelize
from std.math import ceildiv
from std.memory.alloc import unsafe_alloc

from .activations import quantize
from .lanes import COLUMNS, QUAD, Bytes, Floats, add_products, four_bytes

comptime _ROWS = 96
"""Rows of a task: their bytes fit the second cache."""


@fieldwise_init
struct Matrix(Copyable, ImplicitlyCopyable, Movable):
    """A matrix of bytes and what its products are multiplied with."""

    var bytes: Bytes
    """Tiles of sixteen columns, `[columns / 16, width / 4, 16, 4]`."""
    var scales: Floats
    """`[columns]`."""
    var width: Int
    """A multiple of 16."""
    var columns: Int
    """A multiple of 16."""


@fieldwise_init
struct Sums(Copyable, ImplicitlyCopyable, Movable):
    """Where rows of products go, and what is added to them."""

    var result: Floats
    """`[rows, columns]`."""
    var columns: Int
    var added: Floats
    """Its first row, if something is added."""
    var stride: Int
    """From one row of it to the next; 0 if there is one for all."""

    def after(self, rows: Int) -> Self:
        """Those of the rows that come so many later."""
        return Self(
            self.result.unsafe_offset(rows * self.columns),
            self.columns,
            self.added.unsafe_offset(rows * self.stride),
            self.stride,
        )


@fieldwise_init
struct _Rows(Copyable, ImplicitlyCopyable, Movable):
    """Some rows as bytes."""

    var bytes: Bytes
    """`[rows, width]`."""
    var scales: Floats
    """`[rows]`."""
    var sums: Sums
    """The first row's."""

    def after(self, rows: Int, width: Int) -> Self:
        """Those that come so many rows later."""
        return Self(
            self.bytes.unsafe_offset(rows * width),
            self.scales.unsafe_offset(rows),
            self.sums.after(rows),
        )


def multiply[
    lanes: Int, adds: Bool
](x: Floats, rows: Int, matrix: Matrix, sums: Sums):
    """All products.

    Args:
        x: `[rows, width]`.
        rows: How many there are.
        matrix: Their other factor.
        sums: Where they go.
    """
    # Rows that a tile of accumulators takes.
    comptime tall = 12 if lanes == 16 else 4

    def some(task: Int) {imm}:
        var first = task * _ROWS
        var count = min(_ROWS, rows - first)
        var start = _Rows(
            rebind[Bytes](unsafe_alloc[Int8](_ROWS * matrix.width, alignment=64)),
            rebind[Floats](unsafe_alloc[Float32](_ROWS, alignment=64)),
            sums.after(first),
        )
        for row in range(count):
            start.scales.unsafe_store(
                row,
                quantize[lanes](
                    x.unsafe_offset((first + row) * matrix.width),
                    matrix.width,
                    start.bytes.unsafe_offset(row * matrix.width),
                ),
            )
        # Two tiles of columns stay in the first caches while all rows pass.
        var column = 0
        while column < matrix.columns:
            if lanes == 16 and column + 2 * COLUMNS <= matrix.columns:
                _multiply_rows[lanes, tall, 2, adds](start, count, matrix, column)
                column += 2 * COLUMNS
            else:
                _multiply_rows[lanes, tall, 1, adds](start, count, matrix, column)
                column += COLUMNS
        start.bytes.unsafe_free()
        start.scales.unsafe_free()

    sync_parallelize(some, ceildiv(rows, _ROWS))


@always_inline
def _multiply_rows[
    lanes: Int, tall: Int, tiles: Int, adds: Bool
](start: _Rows, count: Int, matrix: Matrix, column: Int):
    """Products of rows with so many tiles of columns."""
    comptime vectors = tiles * COLUMNS // lanes
    var excess = _excess[lanes, vectors](matrix, column)
    var row = 0
    while row + tall <= count:
        _multiply_tile[lanes, tall, vectors, adds](
            start.after(row, matrix.width), matrix, column, excess
        )
        row += tall
    while row < count:
        _multiply_tile[lanes, 1, vectors, adds](
            start.after(row, matrix.width), matrix, column, excess
        )
        row += 1


def _excess[
    lanes: Int, vectors: Int
](matrix: Matrix, column: Int) -> Array[SIMD[DType.int32, lanes], vectors]:
    """What sums of products with columns are too large by, see `add_products`."""
    comptime Totals = SIMD[DType.int32, lanes]
    var excess = Array[Totals, vectors](fill=Totals(0))
    comptime if lanes == 16:
        for quad in range(matrix.width // 4):
            comptime for vector in range(vectors):
                excess[vector] = add_products[lanes](
                    excess[vector],
                    Int32(0x01010101),
                    _four[lanes, vector](matrix, column, quad),
                )
    comptime for vector in range(vectors):
        excess[vector] <<= 7
    return excess^


@always_inline
def _four[
    lanes: Int, vector: Int
](matrix: Matrix, column: Int, quad: Int) -> SIMD[DType.int8, 4 * lanes]:
    """Four successive values of some columns.

    Parameters:
        lanes: How many columns.
        vector: Which ones from the first on.

    Args:
        matrix: The matrix.
        column: The first.
        quad: Which values.
    """
    comptime tile = vector * lanes // COLUMNS
    comptime place = vector * lanes % COLUMNS * 4
    return matrix.bytes.unsafe_load[width = 4 * lanes](
        (column + tile * COLUMNS) * matrix.width + quad * QUAD + place
    )


@no_inline
def _multiply_tile[
    lanes: Int, rows: Int, vectors: Int, adds: Bool
](
    some: _Rows,
    matrix: Matrix,
    column: Int,
    excess: Array[SIMD[DType.int32, lanes], vectors],
):
    """Products of a few rows with some vectors of columns, sums in registers."""
    comptime Totals = SIMD[DType.int32, lanes]
    var sums = Array[Totals, rows * vectors](fill=Totals(0))
    for quad in range(matrix.width // 4):
        var four = Array[SIMD[DType.int8, 4 * lanes], vectors](uninitialized=True)
        comptime for vector in range(vectors):
            four[vector] = _four[lanes, vector](matrix, column, quad)
        comptime for row in range(rows):
            var values = four_bytes(
                some.bytes.unsafe_offset(row * matrix.width + quad * 4)
            )
            comptime for vector in range(vectors):
                sums[row * vectors + vector] = add_products[lanes](
                    sums[row * vectors + vector], values, four[vector]
                )
    comptime for vector in range(vectors):
        var place = column + vector * lanes
        var scales = matrix.scales.unsafe_load[width=lanes, alignment=4](place)
        comptime for row in range(rows):
            var sum = sums[row * vectors + vector] - excess[vector]
            var value = sum.cast[DType.float32]() * (
                scales * some.scales.unsafe_load(row)
            )
            comptime if adds:
                value += some.sums.added.unsafe_load[width=lanes, alignment=4](
                    row * some.sums.stride + place
                )
            some.sums.result.unsafe_store[alignment=4](
                row * matrix.columns + place, value
            )
