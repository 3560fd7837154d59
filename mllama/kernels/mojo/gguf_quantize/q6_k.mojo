"""Q6_K: blocks of sixteen sub-blocks of 16 weights.

The low four bits of the levels come first, then the high two bits, 8-bit scales and one
float16 super-scale.
"""

from std.math import fma, round

from .quantize import (
    BlockFormat,
    BytePointer,
    safe_divide,
    is_finite_float16,
    float16_bits,
    float16_value,
)

comptime _SUB_BLOCK = 16
"""Weights of a sub-block."""
comptime _PerSubBlock = SIMD[DType.float32, 16]
"""One value of each sub-block."""
comptime _SubBlocks = Array[_PerSubBlock, _SUB_BLOCK]
"""The weights of all sub-blocks, one sub-block in each position of the vectors, so that
sums need no horizontal additions."""

comptime _SMALLEST = Float32(1e-15)
"""Sub-blocks without a larger weight become zeros, as in ggml."""


struct Q6_K(BlockFormat):
    """Each sub-block has a scale, itself quantized to 8 bits, and no minimum."""

    comptime LENGTH = 256
    comptime SIZE = 210

    @staticmethod
    def quantize(weights: Array[Float32, Self.LENGTH], block: BytePointer) -> Bool:
        """Quantizes a block of finite weights.

        Returns:
            True if its super-scale fits float16.
        """
        var sub_blocks = _SubBlocks(uninitialized=True)
        var flat = sub_blocks.unsafe_ptr().unsafe_bitcast[Float32]()
        for j in range(16):
            for i in range(_SUB_BLOCK):
                flat.unsafe_store(i * 16 + j, weights[j * _SUB_BLOCK + i])
        var scales = _scales(sub_blocks)

        var extreme = Float32(0)
        for j in range(16):
            if abs(scales[j]) > abs(extreme):
                extreme = scales[j]
        var inverse = Float32(0) if abs(extreme) < _SMALLEST else -128 / extreme
        var super_scale = float16_bits(Float32(0) if inverse == 0 else 1 / inverse)
        var scale_levels = round(scales * inverse).clamp(-128, 127)
        var scale = scale_levels * float16_value(super_scale)

        var levels = Array[UInt8, 256](uninitialized=True)
        for j in range(16):
            var values = weights.unsafe_ptr().unsafe_load[width=16](j * _SUB_BLOCK)
            var factor = scale[j]
            var level = SIMD[DType.uint8, 16](0)
            if factor != 0:
                var nearest = round(values / factor).clamp(-32, 31)
                level = (nearest + 32).cast[DType.uint8]()
            levels.unsafe_ptr().unsafe_store(j * _SUB_BLOCK, level)
        for half in range(2):
            var half_levels = levels.unsafe_ptr().unsafe_offset(half * 128)
            var first = half_levels.unsafe_load[width=32](0)
            var second = half_levels.unsafe_load[width=32](32)
            var third = half_levels.unsafe_load[width=32](64)
            var fourth = half_levels.unsafe_load[width=32](96)
            block.unsafe_store[alignment=1](
                half * 64, (first & 15) | ((third & 15) << 4)
            )
            block.unsafe_store[alignment=1](
                half * 64 + 32, (second & 15) | ((fourth & 15) << 4)
            )
            block.unsafe_store[alignment=1](
                128 + half * 32,
                (first >> 4)
                | ((second >> 4) << 2)
                | ((third >> 4) << 4)
                | ((fourth >> 4) << 6),
            )
        block.unsafe_bitcast[Int8]().unsafe_store[alignment=1](
            192, scale_levels.cast[DType.int8]()
        )
        block.unsafe_offset(208).unsafe_bitcast[UInt16]().unsafe_store[alignment=1](
            0, super_scale
        )
        return is_finite_float16(super_scale)


def _scales(values: _SubBlocks) -> _PerSubBlock:
    """Returns the scale of each sub-block that fits the levels -32 to 31 best.

    ggml's search tries 19 scales around the one that fits the extreme value, and for
    each the least-squares solution, weighted by the squares of the values.
    """
    var magnitude = _PerSubBlock(0)
    var extreme = _PerSubBlock(0)
    for i in range(_SUB_BLOCK):
        var is_larger = abs(values[i]).gt(magnitude)
        extreme = is_larger.select(values[i], extreme)
        magnitude = is_larger.select(abs(values[i]), magnitude)

    var weighted = _SubBlocks(uninitialized=True)
    var weights = _SubBlocks(uninitialized=True)
    for i in range(_SUB_BLOCK):
        weights[i] = values[i] * values[i]
        weighted[i] = weights[i] * values[i]

    var scale = _PerSubBlock(0)
    var best = _PerSubBlock(-1)
    for step in range(19):
        # The scale that fits the extreme value comes first: it wins where others are no
        # better.
        var shift = 0 if step == 0 else (step - 10 if step < 10 else step - 9)
        var inverse = safe_divide(
            _PerSubBlock(-(32 + Float32(0.1) * Float32(shift))), extreme
        )
        var product_sum = _PerSubBlock(0)
        var square_sum = _PerSubBlock(0)
        for i in range(_SUB_BLOCK):
            var level = round(values[i] * inverse).clamp(-32, 31)
            product_sum = fma(weighted[i], level, product_sum)
            square_sum = fma(weights[i] * level, level, square_sum)
        var quotient = safe_divide(product_sum, square_sum)
        var gain = quotient * product_sum
        var better = square_sum.gt(0) & gain.gt(best)
        scale = better.select(quotient, scale)
        best = better.select(gain, best)
    return magnitude.lt(_SMALLEST).select(_PerSubBlock(0), scale)
