"""Q4_K: super-blocks of eight sub-blocks of 32 weights.

Two float16 super-scales come first, then 6-bit scales and minima, then 4-bit levels.
"""

from std.math import fma
from std.memory import bitcast
from std.utils.index import IndexList

from .quantize import REORDERED_SUMS, SCALE, SUMS_OF_32
from .prefetch import prefetch_columns
from .formats import TILE_SCALES, GemvFormat
from .super_blocks import (
    Words,
    super_block_and_minima_sums,
    first_words,
    last_words,
    load_levels,
    minima_dot_products,
    dot_byte_pairs,
    broadcast_super_block,
    expand_scales,
    load_16_bytes,
    load_values,
)
from .simd import (
    COLUMNS,
    RECORD_BYTES,
    SUPER_BLOCK,
    UNROLL,
    TILE_VECTOR,
    BytePointer,
    FloatPointer,
    FloatVector,
    Levels,
    Pairs,
    Products,
    Simd,
    Sums,
    add_scaled,
    load_float,
    load_products,
    broadcast_4_bytes,
    float16_bits_to_float32,
    store_vector,
    load_vector,
    dot_int16_pairs,
    select_pairs,
    scale_dot_products,
    select_scales,
    tile_dot_products,
    load_transposed,
    add_dot_products,
)

comptime _TILE_MINIMA = TILE_SCALES + 8 * TILE_VECTOR
"""Offset in a tile of the minima, those of two sub-blocks in a vector."""
comptime _TILE_SUPER_SCALES = _TILE_MINIMA + 4 * TILE_VECTOR
"""Offset in a tile of the scales' super-scale, then of the minima's."""

comptime _LAST_SHIFTS = Words(0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0)
"""In the last word of a super-block's header, low halves of bytes belong to scales,
high halves to minima."""


@fieldwise_init
struct _Header[simd: Simd](Copyable, Movable):
    """Scales and minima of a super-block of each column."""

    var scales: Array[Products[Self.simd], 8]
    """Scales of each sub-block."""
    var minima: Array[Pairs[Self.simd.width], 4]
    """Minima of two sub-blocks each."""
    var super_scale: FloatVector[Self.simd.width]
    """Super-scale of the scales (ggml's `d`)."""
    var super_min: FloatVector[Self.simd.width]
    """Super-scale of the minima (ggml's `dmin`)."""


@always_inline
def _load_header[
    simd: Simd
](column: BytePointer, stride: Int) -> _Header[simd]:
    comptime simd_width = simd.width
    var words = load_transposed[simd_width](column, stride)
    var low = bitcast[DType.uint32, simd_width](words[1])
    var mid = bitcast[DType.uint32, simd_width](words[2])
    var high = bitcast[DType.uint32, simd_width](words[3])
    # The first four sub-blocks have the low six bits of a byte; the high two bits of
    # these bytes belong to the last four.
    comptime six = SIMD[DType.uint32, simd_width](0x3F3F3F3F)
    comptime four = SIMD[DType.uint32, simd_width](0x0F0F0F0F)
    comptime two = SIMD[DType.uint32, simd_width](0x30303030)
    var scale_bytes: Array[Levels[simd_width], 2] = [
        bitcast[DType.uint8, 4 * simd_width](low & six),
        bitcast[DType.uint8, 4 * simd_width]((high & four) | ((low >> 2) & two)),
    ]
    var low_bytes: Array[Levels[simd_width], 2] = [
        bitcast[DType.uint8, 4 * simd_width](mid & six),
        bitcast[DType.uint8, 4 * simd_width](((high >> 4) & four) | ((mid >> 2) & two)),
    ]
    var scales = Array[Products[simd], 8](uninitialized=True)
    var minima = Array[Pairs[simd_width], 4](uninitialized=True)
    comptime for i in range(4):
        comptime for quarter in range(2):
            scales[quarter * 4 + i] = select_scales[simd, i, False](
                scale_bytes[quarter]
            )
        minima[i] = select_pairs[simd_width, i % 2 * 2, i % 2 * 2 + 1, False](
            low_bytes[i // 2]
        )
    var super_scales = bitcast[DType.uint32, simd_width](words[0])
    return _Header[simd](
        scales^,
        minima^,
        float16_bits_to_float32[simd_width](super_scales & 0xFFFF),
        float16_bits_to_float32[simd_width](super_scales >> 16),
    )


struct Q4_K(GemvFormat):
    """A weight is a level times its scale, less its minimum.

    Eight products of a level (to 15) and a value (to 127) fit int16, in which AVX2 sums
    a quarter of a sub-block: the products of a sub-block are summed before its scale is
    applied.
    """

    comptime SUPER_BLOCK_BYTES = 144
    comptime PREFETCH_DISTANCE = 16384

    @staticmethod
    def dot_super_blocks[
        count: Int, simd_width: Int
    ](blocks: BytePointer, records: BytePointer, reordered: BytePointer) -> FloatVector[
        UNROLL
    ]:
        # Of each super-block: a word of two super-scales, two words of low bits, one of
        # high bits.
        var words = load_16_bytes[count](blocks, Self.SUPER_BLOCK_BYTES)
        var last = last_words(words) >> _LAST_SHIFTS
        # Words 1 and 2 hold scales and minima: of the first four sub-blocks, then of
        # the others.
        var first_four = words & 0x3F3F3F3F
        var last_four = (last & 0x0F0F0F0F) | ((words >> 2) & 0x30303030)
        var sums = Array[Sums[simd_width], UNROLL](fill=Sums[simd_width](0))
        comptime for super_block in range(count):
            var levels_start = blocks.unsafe_offset(
                super_block * Self.SUPER_BLOCK_BYTES + 16
            )
            var scales: Array[Levels[simd_width], 2] = [
                broadcast_super_block[simd_width, super_block](first_four),
                broadcast_super_block[simd_width, super_block](last_four),
            ]
            comptime for part in range(32 // simd_width):
                comptime byte = part * 4 * simd_width
                comptime sub = byte // 16
                var levels = load_levels[simd_width](levels_start.unsafe_offset(byte))
                var values = reordered.unsafe_offset(
                    super_block * SUPER_BLOCK + byte // 64 * 128 + byte % 64
                )
                comptime for high in range(2):
                    var products = dot_byte_pairs[simd_width](
                        _half[simd_width, high](levels),
                        load_values[simd_width](values.unsafe_offset(high * 64)),
                    )
                    comptime first = 4 + sub % 4 + high
                    var scale = expand_scales[simd_width, first, 32, 2](
                        scales[sub // 4]
                    )
                    sums[super_block] += dot_int16_pairs[simd_width](products, scale)
        var minima_sums = minima_dot_products[simd_width](
            reordered.unsafe_offset(REORDERED_SUMS), _minima(first_four, last_four)
        )
        var both = super_block_and_minima_sums[simd_width](sums, minima_sums).cast[
            DType.float32
        ]()
        var super_scales = first_words(words)
        var super_scale = float16_bits_to_float32[UNROLL](super_scales & 0xFFFF)
        var super_min = float16_bits_to_float32[UNROLL](super_scales >> 16)
        var result = both.slice[UNROLL]() * super_scale
        return fma(both.slice[UNROLL, offset=UNROLL](), -super_min, result)

    @staticmethod
    @no_inline
    def multiply_packed[
        tokens: Int, simd: Simd
    ](
        column: BytePointer,
        stride: Int,
        upcoming: BytePointer,
        records: BytePointer,
        totals: FloatPointer,
    ):
        comptime simd_width = simd.width
        var header = _load_header[simd](column, stride)
        var sums = Array[Sums[simd_width], tokens](fill=Sums[simd_width](0))
        for pair in range(4):
            var lower = Array[Products[simd], tokens](
                fill=Products[simd](0)
            )
            var upper = Array[Products[simd], tokens](
                fill=Products[simd](0)
            )
            comptime for part in range(2):
                var step = pair * 2 + part
                prefetch_columns[Self.SUPER_BLOCK_BYTES, simd_width // 8](
                    upcoming, step, stride
                )
                var packed = load_transposed[simd_width](
                    column.unsafe_offset(16 + step * 16), stride
                )
                comptime for i in range(4):
                    var offset = pair * 64 + part * 16 + i * 4
                    comptime for token in range(tokens):
                        var values = records.unsafe_offset(
                            token * RECORD_BYTES + offset
                        )
                        lower[token] = add_dot_products[simd](
                            lower[token],
                            packed[i] & 15,
                            broadcast_4_bytes[simd_width](values),
                        )
                        upper[token] = add_dot_products[simd](
                            upper[token],
                            packed[i] >> 4,
                            broadcast_4_bytes[simd_width](values.unsafe_offset(32)),
                        )
            comptime for token in range(tokens):
                sums[token] += scale_dot_products[simd](
                    lower[token], header.scales[2 * pair]
                )
                sums[token] += scale_dot_products[simd](
                    upper[token], header.scales[2 * pair + 1]
                )
        comptime for token in range(tokens):
            var record = records.unsafe_offset(token * RECORD_BYTES)
            var minima_sums = Sums[simd_width](0)
            comptime for pair in range(4):
                minima_sums += _minima_dot_products[simd_width](
                    record, pair, header.minima[pair]
                )
            var result = sums[token].cast[DType.float32]() * header.super_scale
            result = fma(minima_sums.cast[DType.float32](), -header.super_min, result)
            add_scaled[simd_width](
                totals.unsafe_offset(token * COLUMNS),
                result,
                load_float(record.unsafe_offset(SCALE)),
            )

    @staticmethod
    @no_inline
    def unpack[
        simd: Simd
    ](column: BytePointer, stride: Int, tile: BytePointer, part: Int):
        comptime simd_width = simd.width
        var tile_part = tile.unsafe_offset(part * 4 * simd_width)
        var header = _load_header[simd](column, stride)
        comptime for i in range(8):
            store_vector(
                tile_part.unsafe_offset(TILE_SCALES + i * TILE_VECTOR), header.scales[i]
            )
        comptime for i in range(4):
            store_vector(
                tile_part.unsafe_offset(_TILE_MINIMA + i * TILE_VECTOR),
                header.minima[i],
            )
        store_vector(tile_part.unsafe_offset(_TILE_SUPER_SCALES), header.super_scale)
        store_vector(
            tile_part.unsafe_offset(_TILE_SUPER_SCALES + TILE_VECTOR), header.super_min
        )
        for step in range(8):
            var packed = load_transposed[simd_width](
                column.unsafe_offset(16 + step * 16), stride
            )
            comptime for i in range(4):
                var quad = step // 2 * 16 + step % 2 * 4 + i
                store_vector(
                    tile_part.unsafe_offset(quad * TILE_VECTOR), packed[i] & 15
                )
                store_vector(
                    tile_part.unsafe_offset((quad + 8) * TILE_VECTOR), packed[i] >> 4
                )

    @staticmethod
    @no_inline
    def multiply_tile[
        tokens: Int, simd: Simd
    ](tile: BytePointer, records: BytePointer, totals: FloatPointer):
        comptime simd_width = simd.width
        comptime parts = COLUMNS // simd_width
        var sums = Array[Sums[simd_width], tokens * parts](fill=Sums[simd_width](0))
        for sub in range(8):
            var products = tile_dot_products[tokens, 8, simd](
                tile.unsafe_offset(sub * 8 * TILE_VECTOR),
                records.unsafe_offset(sub * 32),
                Array[Products[simd], tokens](fill=Products[simd](0)),
            )
            var factors = tile.unsafe_offset(TILE_SCALES + sub * TILE_VECTOR)
            comptime for part in range(parts):
                var scale = load_products[simd](
                    factors.unsafe_offset(part * 4 * simd_width)
                )
                comptime for token in range(tokens):
                    comptime index = token * parts + part
                    sums[index] += scale_dot_products[simd](
                        products[index], scale
                    )
        comptime for part in range(parts):
            var tile_part = tile.unsafe_offset(part * 4 * simd_width)
            var minima_sums = Array[Sums[simd_width], tokens](fill=Sums[simd_width](0))
            comptime for pair in range(4):
                var minima = load_vector[DType.int16, 2 * simd_width](
                    tile_part.unsafe_offset(_TILE_MINIMA + pair * TILE_VECTOR)
                )
                comptime for token in range(tokens):
                    var record = records.unsafe_offset(token * RECORD_BYTES)
                    minima_sums[token] += _minima_dot_products[simd_width](
                        record, pair, minima
                    )
            var super_scale = load_vector[DType.float32, simd_width](
                tile_part.unsafe_offset(_TILE_SUPER_SCALES)
            )
            var super_min = load_vector[DType.float32, simd_width](
                tile_part.unsafe_offset(_TILE_SUPER_SCALES + TILE_VECTOR)
            )
            comptime for token in range(tokens):
                comptime index = token * parts + part
                var result = sums[index].cast[DType.float32]() * super_scale
                result = fma(
                    minima_sums[token].cast[DType.float32](), -super_min, result
                )
                var scale = load_float(
                    records.unsafe_offset(token * RECORD_BYTES + SCALE)
                )
                add_scaled[simd_width](
                    totals.unsafe_offset(index * simd_width), result, scale
                )


@always_inline
def _half[simd_width: Int, high: Int](levels: Levels[simd_width]) -> Levels[simd_width]:
    """Returns the low or the high half of each byte."""
    comptime if high == 0:
        return levels & 15
    else:
        var words = bitcast[DType.uint32, simd_width](levels) >> 4
        return bitcast[DType.uint8, 4 * simd_width](words) & 15


@always_inline
def _minima(first_four: Words, last_four: Words) -> SIMD[DType.uint8, 8 * UNROLL]:
    """Returns two minima of each super-block, then the next two."""
    comptime pairs = 8 * UNROLL
    var first = bitcast[DType.uint16, pairs](first_four)
    var last = bitcast[DType.uint16, pairs](last_four)
    var minima = first.shuffle[_minima_indices()](last).slice[pairs // 2]()
    return bitcast[DType.uint8, pairs](minima)


def _minima_indices() -> IndexList[8 * UNROLL]:
    """Returns the source of each pair of minima; only the first half is used."""
    var indices = IndexList[8 * UNROLL]()
    for pair in range(4):
        for super_block in range(UNROLL):
            indices[pair * UNROLL + super_block] = (
                pair // 2 * 8 * UNROLL + super_block * 8 + 4 + pair % 2
            )
    return indices


@always_inline
def _minima_dot_products[
    simd_width: Int
](record: BytePointer, pair: Int, minima: Pairs[simd_width]) -> Sums[simd_width]:
    """Returns the products of two sub-blocks' minima with the sums of a token's values.
    """
    var sums = broadcast_4_bytes[simd_width](
        record.unsafe_offset(SUMS_OF_32 + pair * 4)
    )
    return dot_int16_pairs[simd_width](
        bitcast[DType.int16, 2 * simd_width](sums), minima
    )
