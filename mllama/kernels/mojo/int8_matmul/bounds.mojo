"""Bounds weights for CPUs without VNNI, which add products in int16.

A value of a token is at most 255 as an unsigned byte, and four products are added in
int16: their weights' magnitudes must add up to 128 at most. A column whose weights
don't is scaled down as a whole and rounded again. Scaling by the largest such sum costs
less accuracy than weights of 6 bits (-32 to 31) would, which no four could exceed: a
sum of four weights varies less than one. Values keep their 8 bits, which matter more,
since activations have outliers.
"""

from max.algorithm import sync_parallelize
from std.math import round

from .simd import COLUMNS, QUAD, BytePointer, FloatPointer

comptime _MOST = Float32(128)
"""The largest sum of four weights' magnitudes: 128 times 255 fits int16."""
comptime _ROUNDING = Float32(2)
"""Rounding increases the sum of four magnitudes by at most this."""

comptime _Floats = SIMD[DType.float32, COLUMNS]
comptime _Sums = SIMD[DType.int16, 2 * COLUMNS]


def bound_weights(
    weights: BytePointer,
    scales: FloatPointer,
    width: Int,
    columns: Int,
    bounded: BytePointer,
    bounded_scales: FloatPointer,
):
    """Copies a matrix so that four products at a time fit int16.

    The four weights are those of a column whose products `add_dot_products` adds: two
    successive ones, and those four places later.

    Args:
        weights: Tiles of sixteen columns, `[columns / 16, width / 4, 16, 4]`.
        scales: `[columns]`.
        width: A multiple of 16.
        columns: A multiple of 16.
        bounded: Output, in the same layout.
        bounded_scales: Output, `[columns]`.
    """

    def work(tile: Int) {imm}:
        var offset = tile * COLUMNS * width
        _bound_tile(
            weights.unsafe_offset(offset),
            scales.unsafe_offset(tile * COLUMNS),
            width // 8,
            bounded.unsafe_offset(offset),
            bounded_scales.unsafe_offset(tile * COLUMNS),
        )

    sync_parallelize(work, columns // COLUMNS)


def _bound_tile(
    weights: BytePointer,
    scales: FloatPointer,
    steps: Int,
    bounded: BytePointer,
    bounded_scales: FloatPointer,
):
    """Bounds the weights of sixteen columns.

    Args:
        weights: The tile.
        scales: The columns' scales.
        steps: Number of times eight successive weights.
        bounded: Output.
        bounded_scales: Output.
    """
    var largest = _Sums(0)
    for step in range(steps):
        var first = _magnitudes(weights.unsafe_offset(2 * step * QUAD))
        var second = _magnitudes(weights.unsafe_offset((2 * step + 1) * QUAD))
        largest = max(largest, first + second)
    var halves = largest.deinterleave()
    var sums = max(halves[0], halves[1]).cast[DType.float32]()
    # A column within the bound keeps its weights.
    var factors = sums.gt(_MOST).select(
        _Floats(_MOST - _ROUNDING) / max(sums, _Floats(1)), _Floats(1)
    )
    bounded_scales.unsafe_store(
        0, scales.unsafe_load[width=COLUMNS, alignment=4](0) / factors
    )
    var both = factors.interleave(factors)
    var all_four = both.interleave(both)
    for quad in range(2 * steps):
        var levels = weights.unsafe_load[width=QUAD](quad * QUAD)
        var scaled = round(levels.cast[DType.float32]() * all_four)
        bounded.unsafe_store(quad * QUAD, scaled.cast[DType.int32]().cast[DType.int8]())


@always_inline
def _magnitudes(weights: BytePointer) -> _Sums:
    """Returns the sums of two successive weights' magnitudes, two for each column."""
    var magnitudes = abs(weights.unsafe_load[width=QUAD](0)).cast[DType.int16]()
    var pairs = magnitudes.deinterleave()
    return pairs[0] + pairs[1]
