"""The inner loop of both products: a tile kept in registers.

A tile has 12 accumulators of 8 lanes, which leaves registers for three of the right
factor and one of the left; twelve chains of additions keep both FMA units of an AVX2
core busy.  The left factor is read as it lies, the right one from packed panels.
"""

from std.math import fma

comptime Floats = Pointer[Float32, MutAnyOrigin]
comptime Lanes = SIMD[DType.float32, 8]

comptime PANEL = 24
"""Columns of a panel: what a tile of 4 rows takes."""
comptime STRIP = 12
"""Rows that go together: three tiles of a full panel, one of 8 columns."""


@always_inline
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
    """`rows` x `8 * vectors` values of a product, over the depth of a panel.

    Args:
        left: The first row of the left factor.
        left_stride: Values from one row to the next.
        panel: `[depth, PANEL]`; only the first columns are read.
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
            right[j] = panel.unsafe_load[width=8](p * PANEL + j * 8)
        comptime for i in range(rows):
            var value = Lanes(left.unsafe_load(i * left_stride + p))
            comptime for j in range(vectors):
                sums[i * vectors + j] = fma(value, right[j], sums[i * vectors + j])
    comptime for i in range(rows):
        comptime for j in range(vectors):
            result.unsafe_store(i * result_stride + j * 8, sums[i * vectors + j])


@no_inline
def _strip[
    vectors: Int, adds: Bool
](
    left: Floats,
    left_stride: Int,
    rows: Int,
    panel: Floats,
    depth: Int,
    result: Floats,
    result_stride: Int,
):
    """As `multiply`, for the columns of so many vectors."""
    comptime tall = STRIP // vectors
    var row = 0
    while row + tall <= rows:
        _tile[tall, vectors, adds](
            left.unsafe_offset(row * left_stride),
            left_stride,
            panel,
            depth,
            result.unsafe_offset(row * result_stride),
            result_stride,
        )
        row += tall
    while row < rows:
        _tile[1, vectors, adds](
            left.unsafe_offset(row * left_stride),
            left_stride,
            panel,
            depth,
            result.unsafe_offset(row * result_stride),
            result_stride,
        )
        row += 1


@always_inline
def multiply[
    adds: Bool
](
    left: Floats,
    left_stride: Int,
    rows: Int,
    panel: Floats,
    depth: Int,
    columns: Int,
    result: Floats,
    result_stride: Int,
):
    """Rows times a panel.

    Args:
        left: The first row of the left factor.
        left_stride: Values from one row to the next.
        rows: How many there are.
        panel: `[depth, PANEL]`.
        depth: Terms of each sum.
        columns: Of the panel that count, at most `PANEL`.  The result is written in
            whole vectors of 8, with what the panel holds beyond them.
        result: The first value, added to if `adds`, else overwritten.
        result_stride: Values from one row to the next.
    """
    if columns > 16:
        _strip[3, adds](left, left_stride, rows, panel, depth, result, result_stride)
    elif columns > 8:
        _strip[2, adds](left, left_stride, rows, panel, depth, result, result_stride)
    else:
        _strip[1, adds](left, left_stride, rows, panel, depth, result, result_stride)


@always_inline
def pack_columns(
    rows: Floats, stride: Int, count: Int, depth: Int, scale: Float32, panel: Floats
):
    """Rows of a matrix as columns of a panel `[depth, PANEL]`, the rest zeros.

    Args:
        rows: The first row.
        stride: Values from one row to the next.
        count: How many rows there are, at most `PANEL`.
        depth: How much of each row is taken.
        scale: What they are multiplied by.
        panel: Where they go.
    """
    var row = 0
    while row + 8 <= count:
        _pack_eight(
            rows.unsafe_offset(row * stride),
            stride,
            depth,
            scale,
            panel.unsafe_offset(row),
        )
        row += 8
    while row < count:
        for p in range(depth):
            panel.unsafe_store(
                p * PANEL + row,
                rows.unsafe_load(row * stride + p) * scale,
            )
        row += 1
    while row < PANEL:
        for p in range(depth):
            panel.unsafe_store(p * PANEL + row, Float32(0))
        row += 1


@always_inline
def _pack_eight(
    rows: Floats, stride: Int, depth: Int, scale: Float32, panel: Floats
):
    """Eight rows as columns, 8 x 8 values at a time."""
    var p = 0
    while p + 8 <= depth:
        var r = Array[Lanes, 8](uninitialized=True)
        comptime for i in range(8):
            r[i] = rows.unsafe_load[width=8](i * stride + p) * scale
        # Pairs of rows, of pairs, of halves.
        var pairs = Array[Lanes, 8](uninitialized=True)
        comptime for i in range(4):
            pairs[2 * i] = r[2 * i].shuffle[0, 8, 1, 9, 4, 12, 5, 13](r[2 * i + 1])
            pairs[2 * i + 1] = r[2 * i].shuffle[2, 10, 3, 11, 6, 14, 7, 15](
                r[2 * i + 1]
            )
        comptime for i in range(2):
            comptime for j in range(2):
                var low = pairs[4 * i + j]
                var high = pairs[4 * i + 2 + j]
                r[4 * i + 2 * j] = low.shuffle[0, 1, 8, 9, 4, 5, 12, 13](high)
                r[4 * i + 2 * j + 1] = low.shuffle[2, 3, 10, 11, 6, 7, 14, 15](high)
        comptime for i in range(4):
            panel.unsafe_store(
                (p + i) * PANEL, r[i].shuffle[0, 1, 2, 3, 8, 9, 10, 11](r[4 + i])
            )
            panel.unsafe_store(
                (p + 4 + i) * PANEL,
                r[i].shuffle[4, 5, 6, 7, 12, 13, 14, 15](r[4 + i]),
            )
        p += 8
    while p < depth:
        comptime for i in range(8):
            panel.unsafe_store(
                p * PANEL + i,
                rows.unsafe_load(i * stride + p) * scale,
            )
        p += 1
