"""Blocks of 256 in eight of 32: two float16, scales and minima of 6 bits, levels of 4."""

from std.math import fma
from std.memory import bitcast
from std.utils.index import IndexList

from .activations import CROSSED_SUMS, SCALE, SUMS_OF_32
from .fetching import fetch_columns
from .formats import FACTORS, SpanFormat
from .spans import (
    Heads,
    both_totals,
    first_words,
    last_words,
    levels_at,
    low_sums,
    pair_products,
    repeated,
    scales_of,
    sixteen_of,
    values_at,
)
from .lanes import (
    COLUMNS,
    RECORD,
    SPAN,
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
    halves_as_floats,
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

comptime _MINIMA = FACTORS + 8 * VECTOR
"""Place of the minima, those of two sub-blocks in a vector."""
comptime _UNITS = _MINIMA + 4 * VECTOR
"""Place of the unit of the scales, then that of the minima."""

comptime _LAST_SHIFTS = Heads(0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0)
"""In a span's last word low halves of bytes belong to scales, high ones to minima."""


@fieldwise_init
struct _Head[lanes: Int](Copyable, Movable):
    """What precedes the levels of columns."""

    var scales: Array[Products[Self.lanes], 8]
    """Of each sub-block."""
    var minima: Array[Pairs[Self.lanes], 4]
    """Of two sub-blocks each."""
    var unit: Lanes[Self.lanes]
    """Of the scales."""
    var low_unit: Lanes[Self.lanes]
    """Of the minima."""


@always_inline
def _head[lanes: Int](column: Bytes, stride: Int) -> _Head[lanes]:
    var words = transposed[lanes](column, stride)
    var low = bitcast[DType.uint32, lanes](words[1])
    var mid = bitcast[DType.uint32, lanes](words[2])
    var high = bitcast[DType.uint32, lanes](words[3])
    # The first four sub-blocks have the low bits of a byte; the high two bits of these
    # bytes belong to the last four.
    comptime six = SIMD[DType.uint32, lanes](0x3F3F3F3F)
    comptime four = SIMD[DType.uint32, lanes](0x0F0F0F0F)
    comptime two = SIMD[DType.uint32, lanes](0x30303030)
    var scale_bytes: Array[Levels[lanes], 2] = [
        bitcast[DType.uint8, 4 * lanes](low & six),
        bitcast[DType.uint8, 4 * lanes]((high & four) | ((low >> 2) & two)),
    ]
    var low_bytes: Array[Levels[lanes], 2] = [
        bitcast[DType.uint8, 4 * lanes](mid & six),
        bitcast[DType.uint8, 4 * lanes](((high >> 4) & four) | ((mid >> 2) & two)),
    ]
    var scales = Array[Products[lanes], 8](uninitialized=True)
    var minima = Array[Pairs[lanes], 4](uninitialized=True)
    comptime for i in range(4):
        comptime for quarter in range(2):
            scales[quarter * 4 + i] = scales_at[lanes, i, False](
                scale_bytes[quarter]
            )
        minima[i] = pairs_at[lanes, i % 2 * 2, i % 2 * 2 + 1, False](
            low_bytes[i // 2]
        )
    var units = bitcast[DType.uint32, lanes](words[0])
    return _Head[lanes](
        scales^,
        minima^,
        halves_as_floats[lanes](units & 0xFFFF),
        halves_as_floats[lanes](units >> 16),
    )


struct Q4_K(SpanFormat):
    """A weight is a level times its scale less its minimum.

    Eight products of a level (to 15) and a value (to 127) fit int16, in which AVX2 sums a
    quarter of a sub-block: those of one are summed before its scale is applied.
    """

    comptime SIZE = 144
    comptime AHEAD = 16384

    @staticmethod
    def multiply_spans[
        count: Int, lanes: Int
    ](blocks: Bytes, records: Bytes, crossed: Bytes) -> Lanes[SPANS]:
        # Of each span: two units, two words with low bits, one with the others.
        var words = sixteen_of[count](blocks, Self.SIZE)
        var last = last_words(words) >> _LAST_SHIFTS
        # Words 1 and 2 hold scales and minima of the first four sub-blocks, of the others.
        var first_four = words & 0x3F3F3F3F
        var last_four = (last & 0x0F0F0F0F) | ((words >> 2) & 0x30303030)
        var sums = Array[Sums[lanes], SPANS](fill=Sums[lanes](0))
        comptime for span in range(count):
            var some = blocks.unsafe_offset(span * Self.SIZE + 16)
            var scales: Array[Levels[lanes], 2] = [
                repeated[lanes, span](first_four),
                repeated[lanes, span](last_four),
            ]
            comptime for part in range(32 // lanes):
                comptime byte = part * 4 * lanes
                comptime sub = byte // 16
                var levels = levels_at[lanes](some.unsafe_offset(byte))
                var values = crossed.unsafe_offset(
                    span * SPAN + byte // 64 * 128 + byte % 64
                )
                comptime for high in range(2):
                    var products = pair_products[lanes](
                        _half[lanes, high](levels),
                        values_at[lanes](values.unsafe_offset(high * 64)),
                    )
                    comptime first = 4 + sub % 4 + high
                    var scale = scales_of[lanes, first, 32, 2](scales[sub // 4])
                    sums[span] += pair_sums[lanes](products, scale)
        var lows = low_sums[lanes](
            crossed.unsafe_offset(CROSSED_SUMS), _minima(first_four, last_four)
        )
        var both = both_totals[lanes](sums, lows).cast[DType.float32]()
        var units = first_words(words)
        var unit = halves_as_floats[SPANS](units & 0xFFFF)
        var low_unit = halves_as_floats[SPANS](units >> 16)
        var sum = both.slice[SPANS]() * unit
        return fma(both.slice[SPANS, offset=SPANS](), -low_unit, sum)

    @staticmethod
    def multiply_packed[
        rows: Int, lanes: Int
    ](column: Bytes, stride: Int, ahead: Bytes, records: Bytes, totals: Floats):
        var head = _head[lanes](column, stride)
        var sums = Array[Sums[lanes], rows](fill=Sums[lanes](0))
        comptime for pair in range(4):
            var lower = Array[Products[lanes], rows](fill=Products[lanes](0))
            var upper = Array[Products[lanes], rows](fill=Products[lanes](0))
            comptime for part in range(2):
                comptime step = pair * 2 + part
                fetch_columns[Self.SIZE, lanes // 8](ahead, step, stride)
                var packed = transposed[lanes](
                    column.unsafe_offset(16 + step * 16), stride
                )
                comptime for i in range(4):
                    comptime place = pair * 64 + part * 16 + i * 4
                    comptime for row in range(rows):
                        var values = records.unsafe_offset(row * RECORD + place)
                        lower[row] = with_products[lanes](
                            lower[row], packed[i] & 15, four_bytes[lanes](values)
                        )
                        upper[row] = with_products[lanes](
                            upper[row],
                            packed[i] >> 4,
                            four_bytes[lanes](values.unsafe_offset(32)),
                        )
            comptime for row in range(rows):
                sums[row] += scaled_sums[lanes](lower[row], head.scales[2 * pair])
                sums[row] += scaled_sums[lanes](upper[row], head.scales[2 * pair + 1])
        comptime for row in range(rows):
            var record = records.unsafe_offset(row * RECORD)
            var lows = Sums[lanes](0)
            comptime for pair in range(4):
                lows += _low_sums[lanes](record, pair, head.minima[pair])
            var sum = sums[row].cast[DType.float32]() * head.unit
            sum = fma(lows.cast[DType.float32](), -head.low_unit, sum)
            add_to[lanes](
                totals.unsafe_offset(row * COLUMNS),
                sum,
                float_at(record.unsafe_offset(SCALE)),
            )

    @staticmethod
    def unpack[lanes: Int](column: Bytes, stride: Int, tile: Bytes, part: Int):
        var place = tile.unsafe_offset(part * 4 * lanes)
        var head = _head[lanes](column, stride)
        comptime for i in range(8):
            keep(place.unsafe_offset(FACTORS + i * VECTOR), head.scales[i])
        comptime for i in range(4):
            keep(place.unsafe_offset(_MINIMA + i * VECTOR), head.minima[i])
        keep(place.unsafe_offset(_UNITS), head.unit)
        keep(place.unsafe_offset(_UNITS + VECTOR), head.low_unit)
        comptime for step in range(8):
            var packed = transposed[lanes](
                    column.unsafe_offset(16 + step * 16), stride
                )
            comptime for i in range(4):
                comptime quad = step // 2 * 16 + step % 2 * 4 + i
                keep(place.unsafe_offset(quad * VECTOR), packed[i] & 15)
                keep(place.unsafe_offset((quad + 8) * VECTOR), packed[i] >> 4)

    @staticmethod
    def multiply[rows: Int, lanes: Int](tile: Bytes, records: Bytes, totals: Floats):
        comptime parts = COLUMNS // lanes
        var sums = Array[Sums[lanes], rows * parts](fill=Sums[lanes](0))
        for sub in range(8):
            var products = tile_products[rows, 8, lanes](
                tile.unsafe_offset(sub * 8 * VECTOR), records.unsafe_offset(sub * 32)
            )
            var factors = tile.unsafe_offset(FACTORS + sub * VECTOR)
            comptime for part in range(parts):
                var scale = kept[Products[lanes].dtype, 16](
                    factors.unsafe_offset(part * 4 * lanes)
                )
                comptime for row in range(rows):
                    comptime at = row * parts + part
                    sums[at] += scaled_sums[lanes](products[at], scale)
        comptime for part in range(parts):
            var place = tile.unsafe_offset(part * 4 * lanes)
            var lows = Array[Sums[lanes], rows](fill=Sums[lanes](0))
            comptime for pair in range(4):
                var minima = kept[DType.int16, 2 * lanes](
                    place.unsafe_offset(_MINIMA + pair * VECTOR)
                )
                comptime for row in range(rows):
                    var record = records.unsafe_offset(row * RECORD)
                    lows[row] += _low_sums[lanes](record, pair, minima)
            var unit = kept[DType.float32, lanes](place.unsafe_offset(_UNITS))
            var low_unit = kept[DType.float32, lanes](
                place.unsafe_offset(_UNITS + VECTOR)
            )
            comptime for row in range(rows):
                comptime at = row * parts + part
                var sum = sums[at].cast[DType.float32]() * unit
                sum = fma(lows[row].cast[DType.float32](), -low_unit, sum)
                var scale = float_at(records.unsafe_offset(row * RECORD + SCALE))
                add_to[lanes](totals.unsafe_offset(at * lanes), sum, scale)


@always_inline
def _half[lanes: Int, high: Int](levels: Levels[lanes]) -> Levels[lanes]:
    """The low or the high half of each byte."""
    comptime if high == 0:
        return levels & 15
    else:
        var words = bitcast[DType.uint32, lanes](levels) >> 4
        return bitcast[DType.uint8, 4 * lanes](words) & 15


@always_inline
def _minima(first_four: Heads, last_four: Heads) -> SIMD[DType.uint8, 8 * SPANS]:
    """Two of each span, then the next two: each word's first two, then its last two."""
    comptime pairs = 8 * SPANS
    var first = bitcast[DType.uint16, pairs](first_four)
    var last = bitcast[DType.uint16, pairs](last_four)
    var minima = first.shuffle[_minima_places()](last).slice[pairs // 2]()
    return bitcast[DType.uint8, pairs](minima)


def _minima_places() -> IndexList[8 * SPANS]:
    """Where each pair of minima comes from; no more than the first half is used."""
    var places = IndexList[8 * SPANS]()
    for pair in range(4):
        for span in range(SPANS):
            places[pair * SPANS + span] = (
                pair // 2 * 8 * SPANS + span * 8 + 4 + pair % 2
            )
    return places


@always_inline
def _low_sums[
    lanes: Int
](record: Bytes, pair: Int, minima: Pairs[lanes]) -> Sums[lanes]:
    """What two sub-blocks' minima take from the products with a row."""
    var sums = four_bytes[lanes](record.unsafe_offset(SUMS_OF_32 + pair * 4))
    return pair_sums[lanes](bitcast[DType.int16, 2 * lanes](sums), minima)
