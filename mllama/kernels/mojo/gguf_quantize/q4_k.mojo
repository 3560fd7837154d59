"""Q4_K: blocks of eight sub-blocks of 32 weights.

Two float16 super-scales come first, then 6-bit scales and minima, then 4-bit levels.
"""

from std.math import fma, round, sqrt

from .quantize import (
    BlockFormat,
    BytePointer,
    safe_divide,
    is_finite_float16,
    float16_bits,
    float16_value,
)

comptime _SUB_BLOCK = 32
"""Weights of a sub-block."""
comptime _PerSubBlock = SIMD[DType.float32, 8]
"""One value of each sub-block."""
comptime _SubBlocks = Array[_PerSubBlock, _SUB_BLOCK]
"""The weights of all sub-blocks, one sub-block in each position of the vectors, so that
sums need no horizontal additions."""


struct Q4_K(BlockFormat):
    """Each sub-block has a scale and a minimum, themselves quantized to 6 bits."""

    comptime LENGTH = 256
    comptime SIZE = 144

    @staticmethod
    def quantize(weights: Array[Float32, Self.LENGTH], block: BytePointer) -> Bool:
        """Quantizes a block of finite weights.

        Returns:
            True if its super-scales fit float16.
        """
        var sub_blocks = _SubBlocks(uninitialized=True)
        var flat = sub_blocks.unsafe_ptr().unsafe_bitcast[Float32]()
        for j in range(8):
            for i in range(_SUB_BLOCK):
                flat.unsafe_store(i * 8 + j, weights[j * _SUB_BLOCK + i])
        var scales, minima = _scales_and_minima(sub_blocks)

        var largest_scale = scales.reduce_max()
        var largest_minimum = minima.reduce_max()
        var scale_levels = _quantize_six_bits(scales, largest_scale)
        var minimum_levels = _quantize_six_bits(minima, largest_minimum)
        var super_scale = float16_bits(largest_scale / 63)
        var super_minimum = float16_bits(largest_minimum / 63)
        block.unsafe_bitcast[UInt16]().unsafe_store[alignment=1](0, super_scale)
        block.unsafe_bitcast[UInt16]().unsafe_store[alignment=1](1, super_minimum)
        _store_six_bits(
            scale_levels.cast[DType.uint8](), minimum_levels.cast[DType.uint8](), block
        )

        var scale = scale_levels * float16_value(super_scale)
        var minimum = minimum_levels * float16_value(super_minimum)
        for pair in range(4):
            var first = _levels(weights, 2 * pair, scale[2 * pair], minimum[2 * pair])
            var second = _levels(
                weights, 2 * pair + 1, scale[2 * pair + 1], minimum[2 * pair + 1]
            )
            block.unsafe_store[alignment=1](16 + pair * 32, first | (second << 4))
        return is_finite_float16(super_scale) and is_finite_float16(super_minimum)


def _scales_and_minima(values: _SubBlocks) -> Tuple[_PerSubBlock, _PerSubBlock]:
    """Returns the scale and minimum of each sub-block that fit 4-bit levels best.

    ggml's search tries 21 scales around that of the range of values, and for each the
    least-squares solution, weighted by the size of the values. The range begins at the
    best minimum so far.

    Returns:
        Scales and minima, the latter as positive numbers.
    """
    var squares = _PerSubBlock(0)
    var minimum = _PerSubBlock(0)
    var maximum = values[0]
    for i in range(_SUB_BLOCK):
        squares = fma(values[i], values[i], squares)
        minimum = min(minimum, values[i])
        maximum = max(maximum, values[i])
    var root_mean_square = sqrt(squares / _SUB_BLOCK)

    var weights = _SubBlocks(uninitialized=True)
    var levels = _SubBlocks(uninitialized=True)
    var weight_sum = _PerSubBlock(0)
    var value_sum = _PerSubBlock(0)
    for i in range(_SUB_BLOCK):
        weights[i] = root_mean_square + abs(values[i])
        weight_sum += weights[i]
        value_sum = fma(weights[i], values[i], value_sum)

    var scale = (maximum - minimum) / 15
    var inverse = safe_divide(_PerSubBlock(15), maximum - minimum)
    for i in range(_SUB_BLOCK):
        levels[i] = round((values[i] - minimum) * inverse).clamp(0, 15)
    var best = _weighted_error(values, weights, levels, scale, minimum)

    for step in range(21):
        inverse = safe_divide(
            _PerSubBlock(14 + Float32(0.1) * Float32(step)), maximum - minimum
        )
        var level_sum = _PerSubBlock(0)
        var square_sum = _PerSubBlock(0)
        var product_sum = _PerSubBlock(0)
        for i in range(_SUB_BLOCK):
            var level = round((values[i] - minimum) * inverse).clamp(0, 15)
            var weighted = weights[i] * level
            level_sum += weighted
            square_sum = fma(weighted, level, square_sum)
            product_sum = fma(weighted, values[i], product_sum)
            levels[i] = level
        var determinant = weight_sum * square_sum - level_sum * level_sum
        var new_scale = safe_divide(
            weight_sum * product_sum - value_sum * level_sum, determinant
        )
        var new_minimum = safe_divide(
            square_sum * value_sum - level_sum * product_sum, determinant
        )
        # A minimum above zero can't be stored: only the scale is fitted then.
        var positive = new_minimum.gt(0)
        new_scale = positive.select(safe_divide(product_sum, square_sum), new_scale)
        new_minimum = positive.select(_PerSubBlock(0), new_minimum)
        var error = _weighted_error(values, weights, levels, new_scale, new_minimum)
        var better = determinant.gt(0) & error.lt(best)
        scale = better.select(new_scale, scale)
        minimum = better.select(new_minimum, minimum)
        best = better.select(error, best)
    return scale, -minimum


@always_inline
def _weighted_error(
    values: _SubBlocks,
    weights: _SubBlocks,
    levels: _SubBlocks,
    scale: _PerSubBlock,
    minimum: _PerSubBlock,
) -> _PerSubBlock:
    var total = _PerSubBlock(0)
    for i in range(_SUB_BLOCK):
        var difference = fma(scale, levels[i], minimum) - values[i]
        total = fma(weights[i] * difference, difference, total)
    return total


def _quantize_six_bits(values: _PerSubBlock, largest: Float32) -> _PerSubBlock:
    var inverse = 63 / largest if largest > 0 else Float32(0)
    return round(values * inverse).clamp(0, 63)


def _store_six_bits(
    scales: SIMD[DType.uint8, 8], minima: SIMD[DType.uint8, 8], block: BytePointer
):
    """Stores eight scales and eight minima of 6 bits in 12 bytes.

    The first four of each fill the low bits of a byte; the high two bits of these bytes
    belong to the last four.
    """
    for i in range(4):
        block.unsafe_store(4 + i, scales[i] | ((scales[i + 4] >> 4) << 6))
        block.unsafe_store(8 + i, minima[i] | ((minima[i + 4] >> 4) << 6))
        block.unsafe_store(12 + i, (scales[i + 4] & 15) | ((minima[i + 4] & 15) << 4))


@always_inline
def _levels(
    weights: Array[Float32, 256], index: Int, scale: Float32, minimum: Float32
) -> SIMD[DType.uint8, 32]:
    """Returns the nearest levels of a sub-block."""
    var values = weights.unsafe_ptr().unsafe_load[width=32](index * _SUB_BLOCK)
    if scale == 0:
        return 0
    return round((values + minimum) / scale).clamp(0, 15).cast[DType.uint8]()
