"""Blocks of 256 in eight of 32: two float16, scales and minima of 6 bits, levels of 4."""

from std.math import fma
from std.memory import bitcast

from .activations import RECORD, SCALE, SUMS_OF_32
from .formats import FACTORS, BlockFormat
from .lanes import (
    HALVES,
    Bytes,
    Floats,
    Lanes,
    Levels,
    Products,
    Sums,
    byte_products,
    four_bytes,
    halves_as_floats,
    pair_sums,
    transposed,
)

comptime _MINIMA = FACTORS + 8 * HALVES * 32
"""Place of the minima, those of two sub-blocks in a vector."""
comptime _UNITS = _MINIMA + 4 * HALVES * 32
"""Place of the unit of the scales, then that of the minima."""


struct Q4_K(BlockFormat):
    """A weight is a level times its scale less its minimum.

    Eight products of a level (to 15) and a value (to 127), two of each in a lane, fit
    int16: those of a sub-block are summed before its scale is applied.
    """

    comptime SIZE = 144

    @staticmethod
    def unpack(column: Bytes, stride: Int, tile: Bytes, half: Int):
        var place = tile.unsafe_offset(half * 32)
        var head = transposed(column, stride)
        var units = bitcast[DType.uint32, 8](head[0])
        var low = bitcast[DType.uint32, 8](head[1])
        var mid = bitcast[DType.uint32, 8](head[2])
        var high = bitcast[DType.uint32, 8](head[3])
        # The first four sub-blocks have the low bits of a byte; the high two bits of
        # these bytes belong to the last four.
        comptime six = SIMD[DType.uint32, 8](0x3F3F3F3F)
        comptime four = SIMD[DType.uint32, 8](0x0F0F0F0F)
        comptime two = SIMD[DType.uint32, 8](0x30303030)
        var scales: Array[Levels, 2] = [
            bitcast[DType.uint8, 32](low & six),
            bitcast[DType.uint8, 32]((high & four) | ((low >> 2) & two)),
        ]
        var minima: Array[Levels, 2] = [
            bitcast[DType.uint8, 32](mid & six),
            bitcast[DType.uint8, 32](((high >> 4) & four) | ((mid >> 2) & two)),
        ]
        comptime for quarter in range(2):
            var levels = bitcast[DType.uint32, 8](scales[quarter])
            comptime for i in range(4):
                var one = (levels >> UInt32(8 * i)) & 255
                place.unsafe_store(
                    FACTORS + (quarter * 4 + i) * HALVES * 32,
                    bitcast[DType.uint8, 32](one | (one << 16)),
                )
            var lows = bitcast[DType.uint32, 8](minima[quarter])
            comptime for i in range(2):
                var first = (lows >> UInt32(16 * i)) & 255
                var second = ((lows >> UInt32(16 * i)) & 0xFF00) << 8
                place.unsafe_store(
                    _MINIMA + (quarter * 2 + i) * HALVES * 32,
                    bitcast[DType.uint8, 32](first | second),
                )
        place.unsafe_store(
            _UNITS, bitcast[DType.uint8, 32](halves_as_floats(units & 0xFFFF))
        )
        place.unsafe_store(
            _UNITS + HALVES * 32,
            bitcast[DType.uint8, 32](halves_as_floats(units >> 16)),
        )
        comptime for pair in range(4):
            comptime for part in range(2):
                var packed = transposed(
                    column.unsafe_offset(16 + pair * 32 + part * 16), stride
                )
                comptime for i in range(4):
                    comptime quad = pair * 16 + part * 4 + i
                    place.unsafe_store(quad * HALVES * 32, packed[i] & 15)
                    place.unsafe_store((quad + 8) * HALVES * 32, packed[i] >> 4)

    @staticmethod
    def multiply[rows: Int](tile: Bytes, records: Bytes, totals: Floats):
        var sums = Array[Sums, rows * HALVES](fill=Sums(0))
        for sub in range(8):
            var levels = tile.unsafe_offset(sub * 8 * HALVES * 32)
            var values = records.unsafe_offset(sub * 32)
            var products = Array[Products, rows * HALVES](fill=Products(0))
            comptime for i in range(8):
                var first = levels.unsafe_load[width=32](i * HALVES * 32)
                var second = levels.unsafe_load[width=32](i * HALVES * 32 + 32)
                comptime for row in range(rows):
                    var four = four_bytes(values.unsafe_offset(row * RECORD + i * 4))
                    products[2 * row] += byte_products(first, four)
                    products[2 * row + 1] += byte_products(second, four)
            var factors = tile.unsafe_offset(FACTORS + sub * HALVES * 32)
            comptime for half in range(HALVES):
                var scale = bitcast[DType.int16, 16](
                    factors.unsafe_load[width=32](half * 32)
                )
                comptime for row in range(rows):
                    comptime at = row * HALVES + half
                    sums[at] += pair_sums(products[at], scale)
        comptime for half in range(HALVES):
            var lows = Array[Sums, rows](fill=Sums(0))
            comptime for pair in range(4):
                var minima = bitcast[DType.int16, 16](
                    tile.unsafe_load[width=32](
                        _MINIMA + (pair * HALVES + half) * 32
                    )
                )
                comptime for row in range(rows):
                    var two = four_bytes(
                        records.unsafe_offset(row * RECORD + SUMS_OF_32 + pair * 4)
                    )
                    lows[row] += pair_sums(bitcast[DType.int16, 16](two), minima)
            var unit = bitcast[DType.float32, 8](
                tile.unsafe_load[width=32](_UNITS + half * 32)
            )
            var low_unit = bitcast[DType.float32, 8](
                tile.unsafe_load[width=32](_UNITS + (HALVES + half) * 32)
            )
            comptime for row in range(rows):
                var scale = records.unsafe_offset(
                    row * RECORD + SCALE
                ).unsafe_bitcast[Float32]().unsafe_load(0)
                var sum = sums[row * HALVES + half].cast[DType.float32]() * unit
                sum = fma(lows[row].cast[DType.float32](), -low_unit, sum)
                var total = totals.unsafe_offset(
                    (row * HALVES + half) * 8
                )
                total.unsafe_store(
                    0, fma(sum, Lanes(scale), total.unsafe_load[width=8](0))
                )
