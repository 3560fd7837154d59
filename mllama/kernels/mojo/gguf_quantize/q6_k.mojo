"""Blocks of 256 in sixteen of 16: low and high bits, 8-bit scales, one float16."""

from std.math import fma, round

from .rows import BlockFormat, Bytes, divided, fits, scale_bits, scale_value

comptime _COUNT = 16
"""Weights of a sub-block."""
comptime _Lanes = SIMD[DType.float32, 16]
"""One value of each sub-block."""
comptime _Column = Array[_Lanes, _COUNT]
"""One lane for each sub-block, so that none is summed across lanes."""

comptime _SMALLEST = Float32(1e-15)
"""Sub-blocks without a larger weight are zeros, as in ggml."""


struct Q6_K(BlockFormat):
    """A scale for each sub-block, itself a level of 8 bits; no minimum."""

    comptime LENGTH = 256
    comptime SIZE = 210

    @staticmethod
    def quantize(weights: Array[Float32, Self.LENGTH], block: Bytes) -> Bool:
        """Writes a block of finite weights.

        Returns:
            Whether its scale fits float16.
        """
        var columns = _Column(uninitialized=True)
        var flat = columns.unsafe_ptr().unsafe_bitcast[Float32]()
        for j in range(16):
            for i in range(_COUNT):
                flat.unsafe_store(i * 16 + j, weights[j * _COUNT + i])
        var scales = _scales(columns)

        var extreme = Float32(0)
        for j in range(16):
            if abs(scales[j]) > abs(extreme):
                extreme = scales[j]
        var inverse = Float32(0) if abs(extreme) < _SMALLEST else -128 / extreme
        var unit = scale_bits(Float32(0) if inverse == 0 else 1 / inverse)
        var scale_levels = round(scales * inverse).clamp(-128, 127)
        var scale = scale_levels * scale_value(unit)

        var levels = Array[UInt8, 256](uninitialized=True)
        for j in range(16):
            var values = weights.unsafe_ptr().unsafe_load[width=16](j * _COUNT)
            var factor = scale[j]
            var level = SIMD[DType.uint8, 16](0)
            if factor != 0:
                var nearest = round(values / factor).clamp(-32, 31)
                level = (nearest + 32).cast[DType.uint8]()
            levels.unsafe_ptr().unsafe_store(j * _COUNT, level)
        for half in range(2):
            var rows = levels.unsafe_ptr().unsafe_offset(half * 128)
            var first = rows.unsafe_load[width=32](0)
            var second = rows.unsafe_load[width=32](32)
            var third = rows.unsafe_load[width=32](64)
            var fourth = rows.unsafe_load[width=32](96)
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
            0, unit
        )
        return fits(unit)


def _scales(values: _Column) -> _Lanes:
    """Scale of each sub-block that fits the levels -32 to 31 best.

    ggml's search: 19 scales around the one that fits the extreme value, and for each
    the least squares solution, weighted by the squares of the values.
    """
    var size = _Lanes(0)
    var extreme = _Lanes(0)
    for i in range(_COUNT):
        var larger = abs(values[i]).gt(size)
        extreme = larger.select(values[i], extreme)
        size = larger.select(abs(values[i]), size)

    var weighted = _Column(uninitialized=True)
    var weights = _Column(uninitialized=True)
    for i in range(_COUNT):
        weights[i] = values[i] * values[i]
        weighted[i] = weights[i] * values[i]

    var scale = _Lanes(0)
    var best = _Lanes(-1)
    for step in range(19):
        # The scale that fits the extreme value comes first: it wins where others are
        # no better.
        var shift = 0 if step == 0 else (step - 10 if step < 10 else step - 9)
        var inverse = divided(_Lanes(-(32 + Float32(0.1) * Float32(shift))), extreme)
        var product_sum = _Lanes(0)
        var square_sum = _Lanes(0)
        for i in range(_COUNT):
            var level = round(values[i] * inverse).clamp(-32, 31)
            product_sum = fma(weighted[i], level, product_sum)
            square_sum = fma(weights[i] * level, level, square_sum)
        var quotient = divided(product_sum, square_sum)
        var gain = quotient * product_sum
        var better = square_sum.gt(0) & gain.gt(best)
        scale = better.select(quotient, scale)
        best = better.select(gain, best)
    return size.lt(_SMALLEST).select(_Lanes(0), scale)
