"""Blocks of 256 in eight of 32: two float16, scales and minima of 6 bits, levels of 4."""

from std.math import fma
from std.memory import bitcast

from .activations import SCALE, SUMS_OF_32
from .formats import FACTORS, BlockFormat
from .lanes import (
    HALVES,
    RECORD,
    VECTOR,
    Bytes,
    Floats,
    Lanes,
    Levels,
    Products,
    Sums,
    add_to,
    byte_products,
    fetch,
    float_at,
    four_bytes,
    halves_as_floats,
    keep,
    kept,
    pair_sums,
    spread,
    tile_products,
    transposed,
)

comptime _MINIMA = FACTORS + 8 * VECTOR
"""Place of the minima, those of two sub-blocks in a vector."""
comptime _UNITS = _MINIMA + 4 * VECTOR
"""Place of the unit of the scales, then that of the minima."""


@fieldwise_init
struct _Head(Copyable, Movable):
    """What precedes the levels of eight columns."""

    var scales: Array[Products, 8]
    """Of each sub-block, for both products of a lane."""
    var minima: Array[Products, 4]
    """Of two sub-blocks each."""
    var unit: Lanes
    """Of the scales."""
    var low_unit: Lanes
    """Of the minima."""


@always_inline
def _head(column: Bytes, stride: Int) -> _Head:
    var words = transposed(column, stride)
    var low = bitcast[DType.uint32, 8](words[1])
    var mid = bitcast[DType.uint32, 8](words[2])
    var high = bitcast[DType.uint32, 8](words[3])
    # The first four sub-blocks have the low bits of a byte; the high two bits of these
    # bytes belong to the last four.
    comptime six = SIMD[DType.uint32, 8](0x3F3F3F3F)
    comptime four = SIMD[DType.uint32, 8](0x0F0F0F0F)
    comptime two = SIMD[DType.uint32, 8](0x30303030)
    var scale_bytes: Array[Levels, 2] = [
        bitcast[DType.uint8, 32](low & six),
        bitcast[DType.uint8, 32]((high & four) | ((low >> 2) & two)),
    ]
    var low_bytes: Array[Levels, 2] = [
        bitcast[DType.uint8, 32](mid & six),
        bitcast[DType.uint8, 32](((high >> 4) & four) | ((mid >> 2) & two)),
    ]
    var scales = Array[Products, 8](uninitialized=True)
    var minima = Array[Products, 4](uninitialized=True)
    comptime for i in range(4):
        comptime for quarter in range(2):
            scales[quarter * 4 + i] = spread[i, i, 0](scale_bytes[quarter])
        minima[i] = spread[i % 2 * 2, i % 2 * 2 + 1, 0](low_bytes[i // 2])
    var units = bitcast[DType.uint32, 8](words[0])
    return _Head(
        scales^,
        minima^,
        halves_as_floats(units & 0xFFFF),
        halves_as_floats(units >> 16),
    )


struct Q4_K(BlockFormat):
    """A weight is a level times its scale less its minimum.

    Eight products of a level (to 15) and a value (to 127), two of each in a lane, fit
    int16: those of a sub-block are summed before its scale is applied.
    """

    comptime SIZE = 144

    @staticmethod
    def multiply_packed[
        rows: Int
    ](column: Bytes, stride: Int, ahead: Bytes, records: Bytes, totals: Floats):
        var head = _head(column, stride)
        var sums = Array[Sums, rows](fill=Sums(0))
        comptime for pair in range(4):
            var lower = Array[Products, rows](fill=Products(0))
            var upper = Array[Products, rows](fill=Products(0))
            comptime for part in range(2):
                comptime step = pair * 2 + part
                fetch[Self.SIZE](ahead.unsafe_offset(step * stride))
                var packed = transposed(column.unsafe_offset(16 + step * 16), stride)
                comptime for i in range(4):
                    comptime place = pair * 64 + part * 16 + i * 4
                    comptime for row in range(rows):
                        var values = records.unsafe_offset(row * RECORD + place)
                        lower[row] += byte_products(packed[i] & 15, four_bytes(values))
                        upper[row] += byte_products(
                            packed[i] >> 4, four_bytes(values.unsafe_offset(32))
                        )
            comptime for row in range(rows):
                sums[row] += pair_sums(lower[row], head.scales[2 * pair])
                sums[row] += pair_sums(upper[row], head.scales[2 * pair + 1])
        comptime for row in range(rows):
            var record = records.unsafe_offset(row * RECORD)
            var lows = Sums(0)
            comptime for pair in range(4):
                lows += _low_sums(record, pair, head.minima[pair])
            var sum = sums[row].cast[DType.float32]() * head.unit
            sum = fma(lows.cast[DType.float32](), -head.low_unit, sum)
            add_to(
                totals.unsafe_offset(row * 8 * HALVES),
                sum,
                float_at(record.unsafe_offset(SCALE)),
            )

    @staticmethod
    def unpack(column: Bytes, stride: Int, tile: Bytes, half: Int):
        var place = tile.unsafe_offset(half * 32)
        var head = _head(column, stride)
        comptime for i in range(8):
            keep(place.unsafe_offset(FACTORS + i * VECTOR), head.scales[i])
        comptime for i in range(4):
            keep(place.unsafe_offset(_MINIMA + i * VECTOR), head.minima[i])
        keep(place.unsafe_offset(_UNITS), head.unit)
        keep(place.unsafe_offset(_UNITS + VECTOR), head.low_unit)
        comptime for step in range(8):
            var packed = transposed(column.unsafe_offset(16 + step * 16), stride)
            comptime for i in range(4):
                comptime quad = step // 2 * 16 + step % 2 * 4 + i
                keep(place.unsafe_offset(quad * VECTOR), packed[i] & 15)
                keep(place.unsafe_offset((quad + 8) * VECTOR), packed[i] >> 4)

    @staticmethod
    def multiply[rows: Int](tile: Bytes, records: Bytes, totals: Floats):
        var sums = Array[Sums, rows * HALVES](fill=Sums(0))
        for sub in range(8):
            var products = tile_products[rows, 8](
                tile.unsafe_offset(sub * 8 * VECTOR), records.unsafe_offset(sub * 32)
            )
            var factors = tile.unsafe_offset(FACTORS + sub * VECTOR)
            comptime for half in range(HALVES):
                var scale = kept[DType.int16, 16](factors.unsafe_offset(half * 32))
                comptime for row in range(rows):
                    comptime at = row * HALVES + half
                    sums[at] += pair_sums(products[at], scale)
        comptime for half in range(HALVES):
            var part = tile.unsafe_offset(half * 32)
            var lows = Array[Sums, rows](fill=Sums(0))
            comptime for pair in range(4):
                var minima = kept[DType.int16, 16](
                    part.unsafe_offset(_MINIMA + pair * VECTOR)
                )
                comptime for row in range(rows):
                    var record = records.unsafe_offset(row * RECORD)
                    lows[row] += _low_sums(record, pair, minima)
            var unit = kept[DType.float32, 8](part.unsafe_offset(_UNITS))
            var low_unit = kept[DType.float32, 8](
                part.unsafe_offset(_UNITS + VECTOR)
            )
            comptime for row in range(rows):
                comptime at = row * HALVES + half
                var sum = sums[at].cast[DType.float32]() * unit
                sum = fma(lows[row].cast[DType.float32](), -low_unit, sum)
                var scale = float_at(records.unsafe_offset(row * RECORD + SCALE))
                add_to(totals.unsafe_offset(at * 8), sum, scale)


@always_inline
def _low_sums(record: Bytes, pair: Int, minima: Products) -> Sums:
    """What two sub-blocks' minima take from the products with a row."""
    var sums = four_bytes(record.unsafe_offset(SUMS_OF_32 + pair * 4))
    return pair_sums(bitcast[DType.int16, 16](sums), minima)
