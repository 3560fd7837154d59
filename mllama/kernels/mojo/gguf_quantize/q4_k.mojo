"""Blocks of 256 in eight of 32: two float16, 6-bit scales and minima, levels."""

from std.math import fma, round, sqrt

from .rows import BlockFormat, Bytes, divided, fits, scale_bits, scale_value

comptime _COUNT = 32
"""Weights of a sub-block."""
comptime _Lanes = SIMD[DType.float32, 8]
"""One value of each sub-block."""
comptime _Column = Array[_Lanes, _COUNT]
"""One lane for each sub-block, so that none is summed across lanes."""


struct Q4_K(BlockFormat):
    """Scale and minimum of each sub-block, themselves levels of 6 bits."""

    comptime LENGTH = 256
    comptime SIZE = 144

    @staticmethod
    def quantize(weights: Array[Float32, Self.LENGTH], block: Bytes) -> Bool:
        """Writes a block of finite weights.

        Returns:
            Whether its scales fit float16.
        """
        var columns = _Column(uninitialized=True)
        var flat = columns.unsafe_ptr().unsafe_bitcast[Float32]()
        for j in range(8):
            for i in range(_COUNT):
                flat.unsafe_store(i * 8 + j, weights[j * _COUNT + i])
        var scales, lows = _scales_and_minima(columns)

        var top_scale = scales.reduce_max()
        var top_low = lows.reduce_max()
        var scale_levels = _six_bits(scales, top_scale)
        var low_levels = _six_bits(lows, top_low)
        var scale_unit = scale_bits(top_scale / 63)
        var low_unit = scale_bits(top_low / 63)
        block.unsafe_bitcast[UInt16]().unsafe_store[alignment=1](0, scale_unit)
        block.unsafe_bitcast[UInt16]().unsafe_store[alignment=1](1, low_unit)
        _store_six_bits(
            scale_levels.cast[DType.uint8](), low_levels.cast[DType.uint8](), block
        )

        var scale = scale_levels * scale_value(scale_unit)
        var low = low_levels * scale_value(low_unit)
        for pair in range(4):
            var first = _levels(weights, 2 * pair, scale[2 * pair], low[2 * pair])
            var second = _levels(
                weights, 2 * pair + 1, scale[2 * pair + 1], low[2 * pair + 1]
            )
            block.unsafe_store[alignment=1](16 + pair * 32, first | (second << 4))
        return fits(scale_unit) and fits(low_unit)


def _scales_and_minima(values: _Column) -> Tuple[_Lanes, _Lanes]:
    """Scale and minimum of each sub-block that fit 4-bit levels best.

    ggml's search: from the range of values, 21 scales around it are tried, and for
    each the least squares solution, weighted by the size of the values.  The range
    begins at the best minimum so far.

    Returns:
        Scales and minima, the latter as positive numbers.
    """
    var squares = _Lanes(0)
    var low = _Lanes(0)
    var high = values[0]
    for i in range(_COUNT):
        squares = fma(values[i], values[i], squares)
        low = min(low, values[i])
        high = max(high, values[i])
    var spread = sqrt(squares / _COUNT)

    var weights = _Column(uninitialized=True)
    var levels = _Column(uninitialized=True)
    var weight_sum = _Lanes(0)
    var value_sum = _Lanes(0)
    for i in range(_COUNT):
        weights[i] = spread + abs(values[i])
        weight_sum += weights[i]
        value_sum = fma(weights[i], values[i], value_sum)

    var scale = (high - low) / 15
    var inverse = divided(_Lanes(15), high - low)
    for i in range(_COUNT):
        levels[i] = round((values[i] - low) * inverse).clamp(0, 15)
    var best = _error(values, weights, levels, scale, low)

    for step in range(21):
        inverse = divided(_Lanes(14 + Float32(0.1) * Float32(step)), high - low)
        var level_sum = _Lanes(0)
        var square_sum = _Lanes(0)
        var product_sum = _Lanes(0)
        for i in range(_COUNT):
            var level = round((values[i] - low) * inverse).clamp(0, 15)
            var weighted = weights[i] * level
            level_sum += weighted
            square_sum = fma(weighted, level, square_sum)
            product_sum = fma(weighted, values[i], product_sum)
            levels[i] = level
        var determinant = weight_sum * square_sum - level_sum * level_sum
        var new_scale = divided(
            weight_sum * product_sum - value_sum * level_sum, determinant
        )
        var new_low = divided(
            square_sum * value_sum - level_sum * product_sum, determinant
        )
        # A minimum above zero can't be stored: the scale alone is fitted then.
        var positive = new_low.gt(0)
        new_scale = positive.select(divided(product_sum, square_sum), new_scale)
        new_low = positive.select(_Lanes(0), new_low)
        var error = _error(values, weights, levels, new_scale, new_low)
        var better = determinant.gt(0) & error.lt(best)
        scale = better.select(new_scale, scale)
        low = better.select(new_low, low)
        best = better.select(error, best)
    return scale, -low


@always_inline
def _error(
    values: _Column, weights: _Column, levels: _Column, scale: _Lanes, low: _Lanes
) -> _Lanes:
    var total = _Lanes(0)
    for i in range(_COUNT):
        var off = fma(scale, levels[i], low) - values[i]
        total = fma(weights[i] * off, off, total)
    return total


def _six_bits(values: _Lanes, top: Float32) -> _Lanes:
    var inverse = 63 / top if top > 0 else Float32(0)
    return round(values * inverse).clamp(0, 63)


def _store_six_bits(
    scales: SIMD[DType.uint8, 8], lows: SIMD[DType.uint8, 8], block: Bytes
):
    """Eight scales and eight minima of 6 bits in 12 bytes.

    The first four of each fill the low bits of a byte; the last four lend their high
    two bits to these bytes.
    """
    for i in range(4):
        block.unsafe_store(4 + i, scales[i] | ((scales[i + 4] >> 4) << 6))
        block.unsafe_store(8 + i, lows[i] | ((lows[i + 4] >> 4) << 6))
        block.unsafe_store(12 + i, (scales[i + 4] & 15) | ((lows[i + 4] & 15) << 4))


@always_inline
def _levels(
    weights: Array[Float32, 256], index: Int, scale: Float32, low: Float32
) -> SIMD[DType.uint8, 32]:
    """The nearest levels of a sub-block."""
    var values = weights.unsafe_ptr().unsafe_load[width=32](index * _COUNT)
    if scale == 0:
        return 0
    return round((values + low) / scale).clamp(0, 15).cast[DType.uint8]()
