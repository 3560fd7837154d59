"""The microkernel of matrix products: a tile of the result kept in registers.

A tile has 12 accumulators with vectors of 8, or 24 with vectors of 16, which leaves
registers for three vectors of the right factor and one of the left; so many independent
chains of additions keep both FMA units of a core busy. The left factor is read in
place, the right one from packed panels.

Factors are float32, or pairs of bfloat16, of which two adjacent terms of a sum take the
place of one float32 (the layout that VNNI instructions read): AVX-512's BF16 adds both
products of a pair at once, in float32.

Source: BLIS (https://doi.org/10.1145/2764454), for the terms and the packing.
"""

from std.math import ceildiv, fma
from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic

from .simd import FloatPointer, FloatVector, transpose_8x8

comptime PANEL_WIDTH[simd_width: Int] = 3 * simd_width
"""Columns of a packed panel."""
comptime STRIP_HEIGHT[simd_width: Int] = 12 if simd_width == 8 else 24
"""Rows of the left factor that are multiplied together: three tiles of a full panel,
one tile of a single vector of columns."""


@always_inline
def _microkernel[
    simd_width: Int,
    rows: Int,
    vectors: Int,
    accumulate: Bool,
    width: Int,
    use_bfloat16: Bool,
](
    left: FloatPointer,
    left_stride: Int,
    panel: FloatPointer,
    depth: Int,
    result: FloatPointer,
    result_stride: Int,
):
    """Computes a tile of `rows` x `simd_width * vectors` values of a product, over the
    depth of a panel.

    Args:
        left: The first row of the left factor.
        left_stride: Values from one row to the next.
        panel: `[depth, width]`; only the first columns are read.
        depth: Terms of each sum.
        result: The first value, added to if `accumulate`, else overwritten.
        result_stride: Values from one row to the next.
    """
    var sums = Array[FloatVector[simd_width], rows * vectors](uninitialized=True)
    comptime for i in range(rows):
        comptime for j in range(vectors):
            comptime if accumulate:
                sums[i * vectors + j] = result.unsafe_load[width=simd_width](
                    i * result_stride + j * simd_width
                )
            else:
                sums[i * vectors + j] = FloatVector[simd_width](0)
    for p in range(depth):
        var right = Array[FloatVector[simd_width], vectors](uninitialized=True)
        comptime for j in range(vectors):
            right[j] = panel.unsafe_load[width=simd_width](p * width + j * simd_width)
        comptime for i in range(rows):
            var value = FloatVector[simd_width](left.unsafe_load(i * left_stride + p))
            comptime for j in range(vectors):
                sums[i * vectors + j] = _multiply_add[simd_width, use_bfloat16](
                    value, right[j], sums[i * vectors + j]
                )
    comptime for i in range(rows):
        comptime for j in range(vectors):
            result.unsafe_store(
                i * result_stride + j * simd_width, sums[i * vectors + j]
            )


@always_inline
def _multiply_add[
    simd_width: Int, use_bfloat16: Bool
](
    a: FloatVector[simd_width], b: FloatVector[simd_width], sum: FloatVector[simd_width]
) -> FloatVector[simd_width]:
    """Returns `sum` plus one product, or plus the two products of a bfloat16 pair."""
    comptime if use_bfloat16:
        return llvm_intrinsic[
            "llvm.x86.avx512bf16.dpbf16ps.512",
            FloatVector[simd_width],
            has_side_effect=False,
        ](
            sum,
            bitcast[DType.bfloat16, 2 * simd_width](a),
            bitcast[DType.bfloat16, 2 * simd_width](b),
        )
    else:
        return fma(a, b, sum)


@no_inline
def multiply_strip[
    simd_width: Int,
    vectors: Int,
    accumulate: Bool,
    width: Int,
    use_bfloat16: Bool = False,
](
    left: FloatPointer,
    left_stride: Int,
    rows: Int,
    panel: FloatPointer,
    depth: Int,
    result: FloatPointer,
    result_stride: Int,
):
    """Multiplies rows with the first `vectors` vectors of a panel `[depth, width]`.

    The arguments are those of `multiply_panel`.
    """
    comptime tile_height = STRIP_HEIGHT[simd_width] // vectors
    var row = 0
    while row + tile_height <= rows:
        _microkernel[simd_width, tile_height, vectors, accumulate, width, use_bfloat16](
            left.unsafe_offset(row * left_stride),
            left_stride,
            panel,
            depth,
            result.unsafe_offset(row * result_stride),
            result_stride,
        )
        row += tile_height
    while row < rows:
        _microkernel[simd_width, 1, vectors, accumulate, width, use_bfloat16](
            left.unsafe_offset(row * left_stride),
            left_stride,
            panel,
            depth,
            result.unsafe_offset(row * result_stride),
            result_stride,
        )
        row += 1


@always_inline
def multiply_panel[
    simd_width: Int, accumulate: Bool, use_bfloat16: Bool = False
](
    left: FloatPointer,
    left_stride: Int,
    rows: Int,
    panel: FloatPointer,
    depth: Int,
    columns: Int,
    result: FloatPointer,
    result_stride: Int,
):
    """Multiplies rows with a panel, both of float32 or both of bfloat16 pairs.

    Args:
        left: The first row of the left factor.
        left_stride: Values from one row to the next.
        rows: Number of rows.
        panel: `[depth, PANEL_WIDTH]`.
        depth: Terms of each sum, or pairs of them.
        columns: Columns of the panel that are used, at most `PANEL_WIDTH`. The result
            is written in whole vectors, with what the panel holds beyond them.
        result: The first value, added to if `accumulate`, else overwritten.
        result_stride: Values from one row to the next.
    """
    var needed = ceildiv(columns, simd_width)
    comptime for vectors in range(1, PANEL_WIDTH[simd_width] // simd_width + 1):
        if needed == vectors:
            multiply_strip[
                simd_width, vectors, accumulate, PANEL_WIDTH[simd_width], use_bfloat16
            ](left, left_stride, rows, panel, depth, result, result_stride)


@always_inline
def pack_transposed[
    width: Int
](
    rows: FloatPointer,
    stride: Int,
    count: Int,
    depth: Int,
    scale: Float32,
    panel: FloatPointer,
):
    """Packs rows of a matrix as columns of a panel `[depth, width]`, padded with zeros.

    Args:
        rows: The first row.
        stride: Values from one row to the next.
        count: Number of rows, at most `width`.
        depth: Values that are taken of each row, a multiple of 8.
        scale: Factor that all values are multiplied by.
        panel: Output.
    """
    var row = 0
    while row + 8 <= count:
        _pack_eight_rows[width](
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
def _pack_eight_rows[
    width: Int
](rows: FloatPointer, stride: Int, depth: Int, scale: Float32, panel: FloatPointer):
    """Packs eight rows as columns, 8 x 8 values at a time; `depth` is a multiple of 8.
    """
    for p in range(0, depth, 8):
        var block = Array[FloatVector[8], 8](uninitialized=True)
        comptime for i in range(8):
            block[i] = rows.unsafe_load[width=8](i * stride + p) * scale
        transpose_8x8(block)
        comptime for i in range(8):
            panel.unsafe_store((p + i) * width, block[i])


@always_inline
def pack_bfloat16_pairs[width: Int](panel: FloatPointer, count: Int):
    """Rounds a panel to bfloat16 in place and interleaves each two rows as one row of
    pairs.

    If `count` is odd, the last row is paired with whatever follows it.
    """
    for row in range(0, count, 2):
        for column in range(0, width, 8):
            var source = panel.unsafe_offset(row * width + column)
            var even = source.unsafe_load[width=8](0).cast[DType.bfloat16]()
            var odd = source.unsafe_load[width=8](width).cast[DType.bfloat16]()
            panel.unsafe_store(
                row // 2 * width + column,
                bitcast[DType.float32, 8](even.interleave(odd)),
            )


@always_inline
def round_to_bfloat16[simd_width: Int](row: FloatPointer, count: Int):
    """Rounds values to bfloat16 in place, in whole vectors, so that adjacent ones form
    pairs."""
    var target = row.unsafe_bitcast[BFloat16]()
    for i in range(0, count, simd_width):
        target.unsafe_store(
            i, row.unsafe_load[width=simd_width](i).cast[DType.bfloat16]()
        )
