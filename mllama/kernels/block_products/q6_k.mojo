"""Blocks of 256 in sixteen of 16: low and high bits, 8-bit scales, one float16."""

from std.memory import bitcast

from .activations import SCALE, SUMS_OF_16
from .formats import FACTORS, BlockFormat
from .lanes import (
    HALVES,
    RECORD,
    VECTOR,
    Bytes,
    Floats,
    Levels,
    Products,
    Sums,
    add_to,
    byte_products,
    fetch,
    float_at,
    four_bytes,
    half_floats,
    keep,
    kept,
    pair_sums,
    spread,
    tile_products,
    transposed,
)

comptime _PAIRS = FACTORS + 16 * VECTOR
"""Place of the scales once more, those of two sub-blocks in a vector."""
comptime _UNIT = _PAIRS + 8 * VECTOR
"""Place of the unit of the scales."""
comptime _HIGH_BITS = 128
comptime _SCALES = 192
comptime _HALF = 208


struct Q6_K(BlockFormat):
    """A weight is its level less 32, times its scale.

    Four products of a level (to 63) and a value (to 127), two of each in a lane, fit
    int16: half of a sub-block is summed before its scale is applied.
    """

    comptime SIZE = 210

    @staticmethod
    def multiply_packed[
        rows: Int
    ](column: Bytes, stride: Int, ahead: Bytes, records: Bytes, totals: Floats):
        var scales = transposed(column.unsafe_offset(_SCALES), stride)
        var sums = Array[Sums, rows](fill=Sums(0))
        comptime for i in range(4):
            comptime for j in range(2):
                var both = spread[2 * j, 2 * j + 1, 1](scales[i]) >> 8
                comptime for row in range(rows):
                    sums[row] -= _offsets(
                        records.unsafe_offset(row * RECORD), 2 * i + j, both
                    )
        comptime for row in range(rows):
            sums[row] <<= 5
        comptime for step in range(4):
            fetch[Self.SIZE](ahead.unsafe_offset(2 * step * stride))
            fetch[Self.SIZE](ahead.unsafe_offset((2 * step + 1) * stride))
            var levels = _levels[step](column, stride)
            comptime for quarter in range(4):
                comptime sub = step // 2 * 8 + step % 2 + quarter * 2
                var scale = spread[sub % 4, sub % 4, 1](scales[sub // 4]) >> 8
                comptime for row in range(rows):
                    var values = records.unsafe_offset(row * RECORD + sub * 16)
                    comptime for part in range(2):
                        var products = Products(0)
                        comptime for i in range(2 * part, 2 * part + 2):
                            products += byte_products(
                                levels[quarter * 4 + i],
                                four_bytes(values.unsafe_offset(i * 4)),
                            )
                        sums[row] += pair_sums(products, scale)
        var unit = half_floats(column.unsafe_offset(_HALF), stride)
        comptime for row in range(rows):
            add_to(
                totals.unsafe_offset(row * 8 * HALVES),
                sums[row].cast[DType.float32]() * unit,
                float_at(records.unsafe_offset(row * RECORD + SCALE)),
            )

    @staticmethod
    def unpack(column: Bytes, stride: Int, tile: Bytes, half: Int):
        var place = tile.unsafe_offset(half * 32)
        var scales = transposed(column.unsafe_offset(_SCALES), stride)
        comptime for i in range(4):
            comptime for j in range(4):
                keep(
                    place.unsafe_offset(FACTORS + (i * 4 + j) * VECTOR),
                    spread[j, j, 1](scales[i]) >> 8,
                )
            comptime for j in range(2):
                keep(
                    place.unsafe_offset(_PAIRS + (i * 2 + j) * VECTOR),
                    spread[2 * j, 2 * j + 1, 1](scales[i]) >> 8,
                )
        keep(
            place.unsafe_offset(_UNIT),
            half_floats(column.unsafe_offset(_HALF), stride),
        )
        comptime for step in range(4):
            var levels = _levels[step](column, stride)
            comptime for quarter in range(4):
                comptime sub = step // 2 * 8 + step % 2 + quarter * 2
                comptime for i in range(4):
                    keep(
                        place.unsafe_offset((sub * 4 + i) * VECTOR),
                        levels[quarter * 4 + i],
                    )

    @staticmethod
    def multiply[rows: Int](tile: Bytes, records: Bytes, totals: Floats):
        var sums = Array[Sums, rows * HALVES](fill=Sums(0))
        comptime for half in range(HALVES):
            comptime for pair in range(8):
                var scales = kept[DType.int16, 16](
                    tile.unsafe_offset(_PAIRS + pair * VECTOR + half * 32)
                )
                comptime for row in range(rows):
                    sums[row * HALVES + half] -= _offsets(
                        records.unsafe_offset(row * RECORD), pair, scales
                    )
        comptime for at in range(rows * HALVES):
            sums[at] <<= 5
        for sub in range(16):
            var factors = tile.unsafe_offset(FACTORS + sub * VECTOR)
            comptime for part in range(2):
                var products = tile_products[rows, 2](
                    tile.unsafe_offset((sub * 4 + part * 2) * VECTOR),
                    records.unsafe_offset(sub * 16 + part * 8),
                )
                comptime for half in range(HALVES):
                    var scale = kept[DType.int16, 16](factors.unsafe_offset(half * 32))
                    comptime for row in range(rows):
                        comptime at = row * HALVES + half
                        sums[at] += pair_sums(products[at], scale)
        comptime for half in range(HALVES):
            var unit = kept[DType.float32, 8](tile.unsafe_offset(_UNIT + half * 32))
            comptime for row in range(rows):
                comptime at = row * HALVES + half
                add_to(
                    totals.unsafe_offset(at * 8),
                    sums[at].cast[DType.float32]() * unit,
                    float_at(records.unsafe_offset(row * RECORD + SCALE)),
                )


@always_inline
def _offsets(record: Bytes, pair: Int, scales: Products) -> Sums:
    """A 32nd of what two sub-blocks' products with a row are too large by."""
    var sums = four_bytes(record.unsafe_offset(SUMS_OF_16 + pair * 4))
    return pair_sums(bitcast[DType.int16, 16](sums), scales)


@always_inline
def _levels[step: Int](column: Bytes, stride: Int) -> Array[Levels, 16]:
    """Levels of four sub-blocks of eight columns.

    They are a half of 128 weights: sixteen bytes of high bits belong to sixteen low
    halves and sixteen high halves of two times sixteen bytes.
    """
    comptime offset = step // 2 * 64 + step % 2 * 16
    var near = transposed(column.unsafe_offset(offset), stride)
    var far = transposed(column.unsafe_offset(offset + 32), stride)
    var high = transposed(
        column.unsafe_offset(_HIGH_BITS + step // 2 * 32 + step % 2 * 16), stride
    )
    var levels = Array[Levels, 16](uninitialized=True)
    comptime for i in range(4):
        levels[i] = (near[i] & 15) | ((high[i] & 3) << 4)
        levels[4 + i] = (far[i] & 15) | ((high[i] & 12) << 2)
        levels[8 + i] = (near[i] >> 4) | (high[i] & 48)
        levels[12 + i] = (far[i] >> 4) | ((high[i] & 192) >> 2)
    return levels^
