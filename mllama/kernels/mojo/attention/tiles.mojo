"""The inner loop of matrix products: a tile kept in registers.

A tile has 12 accumulators of 8 lanes or 24 of 16, which leaves registers for three of
the right factor and one of the left; so many chains of additions keep both FMA units of
a core busy.  The left factor is read as it lies, the right one from packed panels.

Factors are float32, or pairs of terms in bfloat16, which take the place of one float32:
AVX-512's BF16 adds both products of a pair at once, in float32.
"""

from std.math import ceildiv, fma
from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic

from .lanes import Floats, Lanes, transpose

comptime PANEL[lanes: Int] = 3 * lanes
"""Columns of a panel."""
comptime STRIP[lanes: Int] = 12 if lanes == 8 else 24
"""Rows that go together: three tiles of a full panel, one of a vector's columns."""


@always_inline
def _tile[
    lanes: Int, rows: Int, vectors: Int, adds: Bool, width: Int, pairs: Bool
](
    left: Floats,
    left_stride: Int,
    panel: Floats,
    depth: Int,
    result: Floats,
    result_stride: Int,
):
    """`rows` x `lanes * vectors` values of a product, over the depth of a panel.

    Args:
        left: The first row of the left factor.
        left_stride: Values from one row to the next.
        panel: `[depth, width]`; only the first columns are read.
        depth: Terms of each sum.
        result: The first value, added to if `adds`, else overwritten.
        result_stride: Values from one row to the next.
    """
    var sums = Array[Lanes[lanes], rows * vectors](uninitialized=True)
    comptime for i in range(rows):
        comptime for j in range(vectors):
            comptime if adds:
                sums[i * vectors + j] = result.unsafe_load[width=lanes](
                    i * result_stride + j * lanes
                )
            else:
                sums[i * vectors + j] = Lanes[lanes](0)
    for p in range(depth):
        var right = Array[Lanes[lanes], vectors](uninitialized=True)
        comptime for j in range(vectors):
            right[j] = panel.unsafe_load[width=lanes](p * width + j * lanes)
        comptime for i in range(rows):
            var value = Lanes[lanes](left.unsafe_load(i * left_stride + p))
            comptime for j in range(vectors):
                sums[i * vectors + j] = _added[lanes, pairs](
                    value, right[j], sums[i * vectors + j]
                )
    comptime for i in range(rows):
        comptime for j in range(vectors):
            result.unsafe_store(i * result_stride + j * lanes, sums[i * vectors + j])


@always_inline
def _added[
    lanes: Int, pairs: Bool
](a: Lanes[lanes], b: Lanes[lanes], sum: Lanes[lanes]) -> Lanes[lanes]:
    """A sum and one product, or the two of a pair."""
    comptime if pairs:
        return llvm_intrinsic[
            "llvm.x86.avx512bf16.dpbf16ps.512", Lanes[lanes], has_side_effect=False
        ](
            sum,
            bitcast[DType.bfloat16, 2 * lanes](a),
            bitcast[DType.bfloat16, 2 * lanes](b),
        )
    else:
        return fma(a, b, sum)


@no_inline
def strip[
    lanes: Int, vectors: Int, adds: Bool, width: Int, pairs: Bool = False
](
    left: Floats,
    left_stride: Int,
    rows: Int,
    panel: Floats,
    depth: Int,
    result: Floats,
    result_stride: Int,
):
    """Rows times so many vectors of a panel `[depth, width]`; see `multiply`."""
    comptime tall = STRIP[lanes] // vectors
    var row = 0
    while row + tall <= rows:
        _tile[lanes, tall, vectors, adds, width, pairs](
            left.unsafe_offset(row * left_stride),
            left_stride,
            panel,
            depth,
            result.unsafe_offset(row * result_stride),
            result_stride,
        )
        row += tall
    while row < rows:
        _tile[lanes, 1, vectors, adds, width, pairs](
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
    lanes: Int, adds: Bool, pairs: Bool = False
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
    """Rows times a panel, both of float32 or both of pairs.

    Args:
        left: The first row of the left factor.
        left_stride: Values from one row to the next.
        rows: How many there are.
        panel: `[depth, PANEL]`.
        depth: Terms of each sum, or pairs of them.
        columns: Of the panel that count, at most `PANEL`.  The result is written in
            whole vectors, with what the panel holds beyond them.
        result: The first value, added to if `adds`, else overwritten.
        result_stride: Values from one row to the next.
    """
    var needed = ceildiv(columns, lanes)
    comptime for vectors in range(1, PANEL[lanes] // lanes + 1):
        if needed == vectors:
            strip[lanes, vectors, adds, PANEL[lanes], pairs](
                left, left_stride, rows, panel, depth, result, result_stride
            )


@always_inline
def pack_columns[
    width: Int
](
    rows: Floats, stride: Int, count: Int, depth: Int, scale: Float32, panel: Floats
):
    """Rows of a matrix as columns of a panel `[depth, width]`, the rest zeros.

    Args:
        rows: The first row.
        stride: Values from one row to the next.
        count: How many rows there are, at most `width`.
        depth: How much of each row is taken, a multiple of 8.
        scale: What they are multiplied by.
        panel: Where they go.
    """
    var row = 0
    while row + 8 <= count:
        _pack_eight[width](
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
                p * width + row,
                rows.unsafe_load(row * stride + p) * scale,
            )
        row += 1
    while row < width:
        for p in range(depth):
            panel.unsafe_store(p * width + row, Float32(0))
        row += 1


@always_inline
def _pack_eight[
    width: Int
](
    rows: Floats, stride: Int, depth: Int, scale: Float32, panel: Floats
):
    """Eight rows as columns, 8 x 8 values at a time; the depth is a multiple of 8."""
    for p in range(0, depth, 8):
        var block = Array[Lanes[8], 8](uninitialized=True)
        comptime for i in range(8):
            block[i] = rows.unsafe_load[width=8](i * stride + p) * scale
        transpose(block)
        comptime for i in range(8):
            panel.unsafe_store((p + i) * width, block[i])


@always_inline
def pair_rows[width: Int](panel: Floats, count: Int):
    """Rows of a panel, in place, to half as many of pairs; an odd last one's partner is
    what lies there."""
    for row in range(0, count, 2):
        for column in range(0, width, 8):
            var place = panel.unsafe_offset(row * width + column)
            var even = place.unsafe_load[width=8](0).cast[DType.bfloat16]()
            var odd = place.unsafe_load[width=8](width).cast[DType.bfloat16]()
            panel.unsafe_store(
                row // 2 * width + column,
                bitcast[DType.float32, 8](even.interleave(odd)),
            )


@always_inline
def pair_values[lanes: Int](row: Floats, count: Int):
    """Values of a row, in place, to half as many pairs, in whole vectors."""
    var target = row.unsafe_bitcast[BFloat16]()
    for i in range(0, count, lanes):
        target.unsafe_store(
            i, row.unsafe_load[width=lanes](i).cast[DType.bfloat16]()
        )
