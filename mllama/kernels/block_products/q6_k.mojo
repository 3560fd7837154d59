"""Blocks of 256 in sixteen of 16: low and high bits, 8-bit scales, one float16."""

from std.math import fma
from std.memory import bitcast

from .activations import RECORD, SCALE, SUMS_OF_16
from .formats import FACTORS, BlockFormat
from .lanes import (
    HALVES,
    Bytes,
    Floats,
    Lanes,
    Products,
    Sums,
    byte_products,
    four_bytes,
    pair_sums,
    transposed,
)

comptime _PAIRS = FACTORS + 16 * HALVES * 32
"""Place of the scales once more, those of two sub-blocks in a vector."""
comptime _UNITS = _PAIRS + 8 * HALVES * 32
"""Place of the unit of the scales."""


struct Q6_K(BlockFormat):
    """A weight is its level less 32, times its scale.

    Four products of a level (to 63) and a value (to 127), two of each in a lane, fit
    int16: half of a sub-block is summed before its scale is applied.
    """

    comptime SIZE = 210

    @staticmethod
    def unpack(column: Bytes, stride: Int, tile: Bytes, half: Int):
        var place = tile.unsafe_offset(half * 32)
        var scales = transposed(column.unsafe_offset(192), stride)
        comptime for i in range(4):
            # The first two of four scales in the even lanes of 16 bits, then the others.
            var four = bitcast[DType.int32, 8](scales[i])
            comptime for j in range(4):
                var one = (four << Int32(24 - 8 * j)) >> 24
                place.unsafe_store(
                    FACTORS + (i * 4 + j) * HALVES * 32,
                    bitcast[DType.uint8, 32]((one & 0xFFFF) | (one << 16)),
                )
            comptime for j in range(2):
                var first = (four << Int32(24 - 16 * j)) >> 24
                var second = ((four << Int32(16 - 16 * j)) >> 24) << 16
                place.unsafe_store(
                    _PAIRS + (i * 2 + j) * HALVES * 32,
                    bitcast[DType.uint8, 32]((first & 0xFFFF) | second),
                )
        var units = SIMD[DType.float16, 8](0)
        comptime for i in range(8):
            units[i] = column.unsafe_offset(i * stride + 208).unsafe_bitcast[
                Float16
            ]().unsafe_load[alignment=1](0)
        place.unsafe_store(
            _UNITS, bitcast[DType.uint8, 32](units.cast[DType.float32]())
        )
        comptime for step in range(4):
            comptime offset = (step // 2) * 64 + (step % 2) * 16
            comptime first_quad = (step // 2) * 32 + (step % 2) * 4
            var low = transposed(column.unsafe_offset(offset), stride)
            var next = transposed(column.unsafe_offset(offset + 32), stride)
            var high = transposed(
                column.unsafe_offset(128 + (step // 2) * 32 + (step % 2) * 16), stride
            )
            comptime for i in range(4):
                var bits = high[i]
                var at = place.unsafe_offset((first_quad + i) * HALVES * 32)
                at.unsafe_store(0, (low[i] & 15) | ((bits & 3) << 4))
                at.unsafe_store(
                    8 * HALVES * 32, (next[i] & 15) | ((bits & 12) << 2)
                )
                at.unsafe_store(16 * HALVES * 32, (low[i] >> 4) | (bits & 48))
                at.unsafe_store(
                    24 * HALVES * 32, (next[i] >> 4) | ((bits & 192) >> 2)
                )

    @staticmethod
    def multiply[rows: Int](tile: Bytes, records: Bytes, totals: Floats):
        var sums = Array[Sums, rows * HALVES](fill=Sums(0))
        for sub in range(16):
            var levels = tile.unsafe_offset(sub * 4 * HALVES * 32)
            var values = records.unsafe_offset(sub * 16)
            var factors = tile.unsafe_offset(FACTORS + sub * HALVES * 32)
            comptime for part in range(2):
                var products = Array[Products, rows * HALVES](fill=Products(0))
                comptime for i in range(2 * part, 2 * part + 2):
                    var first = levels.unsafe_load[width=32](i * HALVES * 32)
                    var second = levels.unsafe_load[width=32](i * HALVES * 32 + 32)
                    comptime for row in range(rows):
                        var four = four_bytes(
                            values.unsafe_offset(row * RECORD + i * 4)
                        )
                        products[2 * row] += byte_products(first, four)
                        products[2 * row + 1] += byte_products(second, four)
                comptime for half in range(HALVES):
                    var scale = bitcast[DType.int16, 16](
                        factors.unsafe_load[width=32](half * 32)
                    )
                    comptime for row in range(rows):
                        comptime at = row * HALVES + half
                        sums[at] += pair_sums(products[at], scale)
        comptime for half in range(HALVES):
            var lows = Array[Sums, rows](fill=Sums(0))
            comptime for pair in range(8):
                var scales = bitcast[DType.int16, 16](
                    tile.unsafe_load[width=32](_PAIRS + (pair * HALVES + half) * 32)
                )
                comptime for row in range(rows):
                    var two = four_bytes(
                        records.unsafe_offset(row * RECORD + SUMS_OF_16 + pair * 4)
                    )
                    lows[row] += pair_sums(bitcast[DType.int16, 16](two), scales)
            var unit = bitcast[DType.float32, 8](
                tile.unsafe_load[width=32](_UNITS + half * 32)
            )
            comptime for row in range(rows):
                var scale = records.unsafe_offset(
                    row * RECORD + SCALE
                ).unsafe_bitcast[Float32]().unsafe_load(0)
                comptime at = row * HALVES + half
                var sum = (sums[at] - (lows[row] << 5)).cast[DType.float32]() * unit
                var total = totals.unsafe_offset(at * 8)
                total.unsafe_store(
                    0, fma(sum, Lanes(scale), total.unsafe_load[width=8](0))
                )
