"""Blocks of 256 in sixteen of 16: low and high bits, 8-bit scales, one float16."""

from std.memory import bitcast
from std.utils.index import IndexList

from .activations import SCALE, SUMS_OF_16
from .fetching import fetch_columns
from .formats import FACTORS, SpanFormat
from .spans import (
    levels_at,
    pair_products,
    shifted,
    sixteen_of,
    totals,
    twice,
    values_at,
)
from .lanes import (
    COLUMNS,
    RECORD,
    SPANS,
    VECTOR,
    Bytes,
    Floats,
    Lanes,
    Levels,
    Pairs,
    Products,
    Sums,
    add_to,
    float_at,
    four_bytes,
    half_floats,
    keep,
    kept,
    pair_sums,
    pairs_at,
    scaled_sums,
    scales_at,
    tile_products,
    transposed,
    with_products,
)

comptime _PAIRS = FACTORS + 16 * VECTOR
"""Place of the scales once more, those of two sub-blocks in a vector."""
comptime _UNIT = _PAIRS + 8 * VECTOR
"""Place of the unit of the scales."""
comptime _MIDDLE = 32
"""What is taken from a level."""
comptime _HIGH_BITS = 128
comptime _SCALES = 192
comptime _HALF = 208


struct Q6_K(SpanFormat):
    """A weight is its level less 32, times its scale.

    Four products of a level (to 63) and a value (to 127) fit int16, in which AVX2 sums a
    quarter of a sub-block: half of one is summed before its scale is applied.
    """

    comptime SIZE = 210
    comptime AHEAD = 12288

    @staticmethod
    def multiply_spans[
        count: Int, lanes: Int
    ](blocks: Bytes, records: Bytes, crossed: Bytes) -> Lanes[SPANS]:
        var heads = sixteen_of[count](blocks.unsafe_offset(_SCALES), Self.SIZE)
        var bytes = bitcast[DType.int8, 16 * SPANS](heads)
        # Those of two spans each.
        var scales: Array[SIMD[DType.int16, 8 * SPANS], 2] = [
            bytes.slice[8 * SPANS]().cast[DType.int16](),
            bytes.slice[8 * SPANS, offset=8 * SPANS]().cast[DType.int16](),
        ]
        var offsets: Array[SIMD[DType.int16, 8 * SPANS], 2] = [
            scales[0] * -_MIDDLE, scales[1] * -_MIDDLE
        ]
        var sums = Array[Sums[lanes], SPANS](fill=Sums[lanes](0))
        comptime for span in range(count):
            var some = blocks.unsafe_offset(span * Self.SIZE)
            var record = records.unsafe_offset(span * RECORD)
            sums[span] = _offset_sums[lanes](
                record, offsets[span // 2].slice[16, offset=span % 2 * 16]()
            )
            comptime for part in range(64 // lanes):
                comptime sub = part * lanes // 4
                var products = pair_products[lanes](
                    _levels_of_part[part, lanes](some),
                    values_at[lanes](record.unsafe_offset(sub * 16)),
                )
                comptime places = _places_of_scales[lanes](span % 2 * 16 + sub)
                var scale = scales[span // 2].shuffle[places]().slice[2 * lanes]()
                sums[span] += pair_sums[lanes](products, scale)
        var unit = half_floats[SPANS, count](blocks.unsafe_offset(_HALF), Self.SIZE)
        return totals[lanes](sums).cast[DType.float32]() * unit

    @staticmethod
    def multiply_packed[
        rows: Int, lanes: Int
    ](column: Bytes, stride: Int, ahead: Bytes, records: Bytes, totals: Floats):
        comptime run = _quads_of_a_sum(lanes)
        var scales = transposed[lanes](column.unsafe_offset(_SCALES), stride)
        var sums = Array[Sums[lanes], rows](fill=Sums[lanes](0))
        comptime for i in range(4):
            comptime for j in range(2):
                var both = pairs_at[lanes, 2 * j, 2 * j + 1, True](scales[i])
                comptime for row in range(rows):
                    sums[row] -= _offsets[lanes](
                        records.unsafe_offset(row * RECORD), 2 * i + j, both
                    )
        comptime for row in range(rows):
            sums[row] <<= 5
        comptime for step in range(4):
            fetch_columns[Self.SIZE, lanes // 4](ahead, step, stride)
            var levels = _levels[step, lanes](column, stride)
            comptime for quarter in range(4):
                comptime sub = step // 2 * 8 + step % 2 + quarter * 2
                var scale = scales_at[lanes, sub % 4, True](scales[sub // 4])
                comptime for row in range(rows):
                    var values = records.unsafe_offset(row * RECORD + sub * 16)
                    comptime for first in range(0, 4, run):
                        var products = Products[lanes](0)
                        comptime for i in range(first, first + run):
                            products = with_products[lanes](
                                products,
                                levels[quarter * 4 + i],
                                four_bytes[lanes](values.unsafe_offset(i * 4)),
                            )
                        sums[row] += scaled_sums[lanes](products, scale)
        var unit = half_floats[lanes](column.unsafe_offset(_HALF), stride)
        comptime for row in range(rows):
            add_to[lanes](
                totals.unsafe_offset(row * COLUMNS),
                sums[row].cast[DType.float32]() * unit,
                float_at(records.unsafe_offset(row * RECORD + SCALE)),
            )

    @staticmethod
    def unpack[lanes: Int](column: Bytes, stride: Int, tile: Bytes, part: Int):
        var place = tile.unsafe_offset(part * 4 * lanes)
        var scales = transposed[lanes](column.unsafe_offset(_SCALES), stride)
        comptime for i in range(4):
            comptime for j in range(4):
                keep(
                    place.unsafe_offset(FACTORS + (i * 4 + j) * VECTOR),
                    scales_at[lanes, j, True](scales[i]),
                )
            comptime for j in range(2):
                keep(
                    place.unsafe_offset(_PAIRS + (i * 2 + j) * VECTOR),
                    pairs_at[lanes, 2 * j, 2 * j + 1, True](scales[i]),
                )
        keep(
            place.unsafe_offset(_UNIT),
            half_floats[lanes](column.unsafe_offset(_HALF), stride),
        )
        comptime for step in range(4):
            var levels = _levels[step, lanes](column, stride)
            comptime for quarter in range(4):
                comptime sub = step // 2 * 8 + step % 2 + quarter * 2
                comptime for i in range(4):
                    keep(
                        place.unsafe_offset((sub * 4 + i) * VECTOR),
                        levels[quarter * 4 + i],
                    )

    @staticmethod
    def multiply[rows: Int, lanes: Int](tile: Bytes, records: Bytes, totals: Floats):
        comptime parts = COLUMNS // lanes
        comptime run = _quads_of_a_sum(lanes)
        var sums = Array[Sums[lanes], rows * parts](fill=Sums[lanes](0))
        comptime for part in range(parts):
            comptime for pair in range(8):
                var scales = kept[DType.int16, 2 * lanes](
                    tile.unsafe_offset(_PAIRS + pair * VECTOR + part * 4 * lanes)
                )
                comptime for row in range(rows):
                    sums[row * parts + part] -= _offsets[lanes](
                        records.unsafe_offset(row * RECORD), pair, scales
                    )
        comptime for at in range(rows * parts):
            sums[at] <<= 5
        for sub in range(16):
            var factors = tile.unsafe_offset(FACTORS + sub * VECTOR)
            comptime for first in range(0, 4, run):
                var products = tile_products[rows, run, lanes](
                    tile.unsafe_offset((sub * 4 + first) * VECTOR),
                    records.unsafe_offset(sub * 16 + first * 4),
                )
                comptime for part in range(parts):
                    var scale = kept[Products[lanes].dtype, 16](
                        factors.unsafe_offset(part * 4 * lanes)
                    )
                    comptime for row in range(rows):
                        comptime at = row * parts + part
                        sums[at] += scaled_sums[lanes](products[at], scale)
        comptime for part in range(parts):
            var unit = kept[DType.float32, lanes](
                tile.unsafe_offset(_UNIT + part * 4 * lanes)
            )
            comptime for row in range(rows):
                comptime at = row * parts + part
                add_to[lanes](
                    totals.unsafe_offset(at * lanes),
                    sums[at].cast[DType.float32]() * unit,
                    float_at(records.unsafe_offset(row * RECORD + SCALE)),
                )


def _quads_of_a_sum(lanes: Int) -> Int:
    """How many times four levels are summed before their scale is applied."""
    return 2 if lanes == 8 else 4


@always_inline
def _offsets[
    lanes: Int
](record: Bytes, pair: Int, scales: Pairs[lanes]) -> Sums[lanes]:
    """A 32nd of what two sub-blocks' products with a row are too large by."""
    var sums = four_bytes[lanes](record.unsafe_offset(SUMS_OF_16 + pair * 4))
    return pair_sums[lanes](bitcast[DType.int16, 2 * lanes](sums), scales)


@always_inline
def _levels[
    step: Int, lanes: Int
](column: Bytes, stride: Int) -> Array[Levels[lanes], 16]:
    """Levels of four sub-blocks of columns.

    They are a half of 128 weights: sixteen bytes of high bits belong to sixteen low
    halves and sixteen high halves of two times sixteen bytes.
    """
    comptime offset = step // 2 * 64 + step % 2 * 16
    var near = transposed[lanes](column.unsafe_offset(offset), stride)
    var far = transposed[lanes](column.unsafe_offset(offset + 32), stride)
    var high = transposed[lanes](
        column.unsafe_offset(_HIGH_BITS + step // 2 * 32 + step % 2 * 16), stride
    )
    var levels = Array[Levels[lanes], 16](uninitialized=True)
    comptime for i in range(4):
        levels[i] = (near[i] & 15) | ((high[i] & 3) << 4)
        levels[4 + i] = (far[i] & 15) | ((high[i] & 12) << 2)
        levels[8 + i] = (near[i] >> 4) | (high[i] & 48)
        levels[12 + i] = (far[i] >> 4) | ((high[i] & 192) >> 2)
    return levels^


@always_inline
def _offset_sums[
    lanes: Int
](record: Bytes, offsets: SIMD[DType.int16, 16]) -> Sums[lanes]:
    """In some lanes, what a column's products with a row are too small by."""
    var sums = record.unsafe_offset(SUMS_OF_16).unsafe_bitcast[Int16]()
    var some = pair_sums[8](sums.unsafe_load[width=16, alignment=1](0), offsets)
    comptime if lanes == 8:
        return rebind[Sums[lanes]](some)
    else:
        return rebind[Sums[lanes]](some.join(Sums[8](0)))


def _places_of_scales[lanes: Int](first: Int) -> IndexList[8 * SPANS]:
    """Where the scale of each pair of successive weights is; sixteen share one."""
    var places = IndexList[8 * SPANS]()
    for pair in range(2 * lanes):
        places[pair] = first + pair // 8
    return places


@always_inline
def _levels_of_part[part: Int, lanes: Int](block: Bytes) -> Levels[lanes]:
    """Levels of successive weights, four for each lane.

    In each half of 128 weights the low halves of 64 bytes belong to the first 64, the
    high halves to the others, and pairs of bits of 32 bytes to four times 32.
    """
    comptime first = part * 4 * lanes
    comptime half = first // 128
    comptime quarter = first % 128 // 32
    var low = levels_at[lanes](block.unsafe_offset(half * 64 + quarter % 2 * 32))
    var high = twice[lanes](block.unsafe_offset(_HIGH_BITS + half * 32))
    comptime if quarter < 2:
        var top = shifted[lanes, 32, -4 + 2 * quarter, -2](high)
        return (low & 15) | (top & 48)
    else:
        var top = shifted[lanes, 32, 2 * quarter - 4, 2](high)
        return (low >> 4) | (top & 48)
