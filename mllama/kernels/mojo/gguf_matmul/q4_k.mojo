"""Q4_K: super-blocks of eight sub-blocks of 32 weights.

Two float16 super-scales come first, then 6-bit scales and minima, then 4-bit levels.
"""

from std.math import fma
from std.memory import bitcast
from std.utils.index import IndexList

from .quantize import SCALE, SUMS_OF_32
from .prefetch import prefetch_columns
from .formats import TILE_SCALES, GemvFormat
from .super_blocks import (
    Words,
    MAX_GEMV_SUPER_BLOCKS,
    super_block_sums,
    load_levels,
    dot_byte_pairs,
    expand_byte_scales,
    load_16_bytes,
    load_values,
)
from .simd import (
    COLUMNS,
    RECORD_BYTES,
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
    align_frame,
)

comptime _TILE_MINIMA = TILE_SCALES + 8 * TILE_VECTOR
"""Offset in a tile of the minima, those of two sub-blocks in a vector."""
comptime _TILE_SUPER_SCALES = _TILE_MINIMA + 4 * TILE_VECTOR
"""Offset in a tile of the scales' super-scale, then of the minima's."""

comptime _EightWords = SIMD[DType.uint32, 2 * UNROLL]
"""Two words of each super-block."""
comptime _LAST_SHIFTS = _EightWords(4, 4, 4, 4, 0, 0, 0, 0)
"""In the last word of a super-block's header, high halves of bytes belong to minima,
low halves to scales."""
comptime _LAST_FOUR = 4 * MAX_GEMV_SUPER_BLOCKS
"""`unpack_scales` writes bytes: the first four scales of each super-block, from this
offset on the last four, then the same of the minima."""
comptime _MINIMA = 2 * _LAST_FOUR
"""Offset of the minima."""
comptime _SUPER_SCALES = 2 * _MINIMA
"""Offset of the two super-scales of each super-block, float16."""


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
    comptime SCALES_STRIDE = 4

    @staticmethod
    @always_inline
    def unpack_scales[
        count: Int
    ](blocks: BytePointer, scales: BytePointer, group: Int):
        var words = load_16_bytes[count](blocks, Self.SUPER_BLOCK_BYTES)
        var words_0_and_1, words_2_and_3 = _transposed(words)
        # Words 1 and 2 hold scales and minima of the first four sub-blocks, and the
        # high two bits of the others, whose low four bits are in word 3.
        var first = words_2_and_3.shuffle[0, 1, 2, 3, 12, 13, 14, 15](words_0_and_1)
        var last = words_2_and_3.shuffle[4, 5, 6, 7, 4, 5, 6, 7]() >> _LAST_SHIFTS
        var of_group = scales.unsafe_offset(group * UNROLL * Self.SCALES_STRIDE)
        _store_scales(first & 0x3F3F3F3F, of_group)
        _store_scales(
            (last & 0x0F0F0F0F) | ((first >> 2) & 0x30303030),
            of_group.unsafe_offset(_LAST_FOUR),
        )
        store_vector(
            scales.unsafe_offset(_SUPER_SCALES + group * 4 * UNROLL),
            words_0_and_1.slice[UNROLL](),
        )

    @staticmethod
    @always_inline
    def dot[
        simd_width: Int
    ](
        block: BytePointer,
        scales: BytePointer,
        record: BytePointer,
        reordered: BytePointer,
    ) -> Sums[simd_width]:
        var sums = Sums[simd_width](0)
        comptime for part in range(32 // simd_width):
            comptime byte = part * 4 * simd_width
            comptime sub = byte // 16
            var levels = load_levels[simd_width](block.unsafe_offset(16 + byte))
            comptime for high in range(2):
                var products = dot_byte_pairs[simd_width](
                    _half[simd_width, high](levels),
                    load_values[simd_width](
                        reordered.unsafe_offset(
                            byte // 64 * 128 + byte % 64 + high * 64
                        )
                    ),
                )
                # Every second sub-block has the high halves.
                var scale = expand_byte_scales[simd_width, sub % 4 + high, 32, 2](
                    scales.unsafe_offset(sub // 4 * _LAST_FOUR)
                )
                sums += dot_int16_pairs[simd_width](products, scale)
        return sums

    @staticmethod
    @always_inline
    def dot_products[
        simd_width: Int
    ](
        scales: BytePointer,
        group: Int,
        sums: Array[Sums[simd_width], UNROLL],
        grouped_sums: BytePointer,
    ) -> FloatVector[UNROLL]:
        var minima = scales.unsafe_offset(_MINIMA + group * UNROLL * Self.SCALES_STRIDE)
        var minima_sums = Sums[2 * UNROLL](0)
        comptime for half in range(2):
            minima_sums += dot_int16_pairs[2 * UNROLL](
                load_vector[DType.uint8, 4 * UNROLL](
                    minima.unsafe_offset(half * _LAST_FOUR)
                ).cast[DType.int16](),
                load_vector[DType.int16, 4 * UNROLL](
                    grouped_sums.unsafe_offset(half * 8 * UNROLL)
                ),
            )
        # Two sums of each super-block, which become the first and the last of each.
        var both = super_block_sums[simd_width](
            sums, minima_sums.shuffle[0, 2, 4, 6, 1, 3, 5, 7]()
        ).cast[DType.float32]()
        var super_scales = load_vector[DType.float16, 2 * UNROLL](
            scales.unsafe_offset(_SUPER_SCALES + group * 4 * UNROLL)
        )
        var scales_then_minima = super_scales.shuffle[0, 2, 4, 6, 1, 3, 5, 7]().cast[
            DType.float32
        ]()
        var result = both.slice[UNROLL]() * scales_then_minima.slice[UNROLL]()
        return fma(
            both.slice[UNROLL, offset=UNROLL](),
            -scales_then_minima.slice[UNROLL, offset=UNROLL](),
            result,
        )

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
    ](
        column: BytePointer,
        stride: Int,
        upcoming: BytePointer,
        tile: BytePointer,
        part: Int,
    ):
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
            prefetch_columns[Self.SUPER_BLOCK_BYTES, simd_width // 8](
                upcoming, step, stride
            )
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
        align_frame()
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
def _transposed(words: Words) -> Tuple[_EightWords, _EightWords]:
    """Returns words 0 and 1 of four super-blocks, and words 2 and 3, those of all
    super-blocks side by side.

    The compiler needs more instructions for one shuffle of all sixteen words.
    """
    comptime middle_swapped = IndexList[8](0, 1, 4, 5, 2, 3, 6, 7)
    var even = words.slice[4]().join(words.slice[4, offset=8]())
    var odd = words.slice[4, offset=4]().join(words.slice[4, offset=12]())
    return (
        even.shuffle[0, 8, 1, 9, 4, 12, 5, 13](odd).shuffle[middle_swapped](),
        even.shuffle[2, 10, 3, 11, 6, 14, 7, 15](odd).shuffle[middle_swapped](),
    )


@always_inline
def _store_scales(minima_and_scales: _EightWords, scales: BytePointer):
    """Stores four scales of each super-block, and their minima `_MINIMA` after them."""
    store_vector(scales, minima_and_scales.slice[UNROLL, offset=UNROLL]())
    store_vector(scales.unsafe_offset(_MINIMA), minima_and_scales.slice[UNROLL]())


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
