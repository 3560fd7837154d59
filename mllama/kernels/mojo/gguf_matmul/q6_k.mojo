"""Q6_K: super-blocks of sixteen sub-blocks of 16 weights.

The low four bits of the levels come first, then the high two bits, 8-bit scales and one
float16 super-scale.
"""

from std.memory import bitcast

from .quantize import OFFSETS_OF_16, SCALE, SUMS_OF_16
from .prefetch import prefetch_columns
from .formats import TILE_SCALES, GemvFormat
from .super_blocks import (
    MAX_GEMV_SUPER_BLOCKS,
    load_levels,
    dot_byte_pairs,
    expand_int16_scales,
    shift_bytes,
    load_16_bytes,
    super_block_sums,
    load_repeated,
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
    load_float16,
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

comptime _TILE_SCALE_PAIRS = TILE_SCALES + 16 * TILE_VECTOR
"""Offset in a tile of a second copy of the scales, those of two sub-blocks in a vector.
"""
comptime _TILE_SUPER_SCALE = _TILE_SCALE_PAIRS + 8 * TILE_VECTOR
"""Offset in a tile of the super-scale."""
comptime _ZERO_POINT = 32
"""The level of a weight of zero."""
comptime _HIGH_BITS_OFFSET = 128
comptime _SCALES_OFFSET = 192
comptime _SUPER_SCALE_OFFSET = 208
comptime _SUPER_SCALES = 32 * MAX_GEMV_SUPER_BLOCKS
"""Offset of the super-scales, float32, in what `unpack_scales` writes; int16 scales of
all sub-blocks come first."""


struct Q6_K(GemvFormat):
    """A weight is its level less 32, times its scale.

    Eight products of a level less 32 and a value (to 127) fit int16, in which AVX2 sums
    half of a sub-block. It begins with what the 32 take off and adds products of levels
    (to 63): sums between overflow, but the last one has lost nothing.
    """

    comptime SUPER_BLOCK_BYTES = 210
    comptime PREFETCH_DISTANCE = 12288
    comptime SCALES_STRIDE = 32

    @staticmethod
    @always_inline
    def unpack_scales[
        count: Int
    ](blocks: BytePointer, scales: BytePointer, group: Int):
        var words = load_16_bytes[count](
            blocks.unsafe_offset(_SCALES_OFFSET), Self.SUPER_BLOCK_BYTES
        )
        var bytes = bitcast[DType.int8, 16 * UNROLL](words)
        comptime for i in range(UNROLL):
            store_vector(
                scales.unsafe_offset((group * UNROLL + i) * Self.SCALES_STRIDE),
                bytes.slice[16, offset=i * 16]().cast[DType.int16](),
            )
        store_vector(
            scales.unsafe_offset(_SUPER_SCALES + group * 4 * UNROLL),
            load_float16[UNROLL, count](
                blocks.unsafe_offset(_SUPER_SCALE_OFFSET), Self.SUPER_BLOCK_BYTES
            ),
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
        var sums = _offset_sums[simd_width](record, scales)
        comptime for part in range(64 // simd_width):
            comptime sub = part * simd_width // 4
            var products = dot_byte_pairs[simd_width](
                _levels_of_part[part, simd_width](block),
                load_values[simd_width](record.unsafe_offset(sub * 16)),
            )
            var scale = expand_int16_scales[simd_width, sub % 8, 16](
                scales.unsafe_offset(sub // 8 * 16)
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
        var all_sums = super_block_sums[simd_width](sums, Sums[2 * UNROLL](0))
        var super_scales = load_vector[DType.float32, UNROLL](
            scales.unsafe_offset(_SUPER_SCALES + group * 4 * UNROLL)
        )
        return all_sums.slice[UNROLL]().cast[DType.float32]() * super_scales

    @staticmethod
    @no_inline
    def multiply_packed[
        tokens: Int, simd: Simd
    ](
        column: BytePointer,
        stride: Int,
        upcoming: BytePointer,
        records: BytePointer,
        super_block_sums: FloatPointer,
    ):
        comptime simd_width = simd.width
        var scales = load_transposed[simd_width](
            column.unsafe_offset(_SCALES_OFFSET), stride
        )
        var sums = Array[Sums[simd_width], tokens](fill=Sums[simd_width](0))
        comptime if simd.has_vnni:
            comptime for i in range(4):
                comptime for j in range(2):
                    var both = select_pairs[simd_width, 2 * j, 2 * j + 1, True](
                        scales[i]
                    )
                    comptime for token in range(tokens):
                        sums[token] -= _offsets[simd_width](
                            records.unsafe_offset(token * RECORD_BYTES), 2 * i + j, both
                        )
            comptime for token in range(tokens):
                sums[token] <<= 5
        for half in range(2):
            comptime for part in range(2):
                prefetch_columns[Self.SUPER_BLOCK_BYTES, simd_width // 4](
                    upcoming, half * 2 + part, stride
                )
                var levels = _levels[simd_width](column, half * 2 + part, stride)
                comptime for quarter in range(4):
                    comptime sub = part + quarter * 2
                    var scale = select_scales[simd, sub % 4, True](
                        scales[half * 2 + sub // 4]
                    )
                    comptime for token in range(tokens):
                        var values = records.unsafe_offset(
                            token * RECORD_BYTES + half * 128 + sub * 16
                        )
                        var products = _start[simd](
                            records.unsafe_offset(token * RECORD_BYTES), half * 8 + sub
                        )
                        comptime for i in range(4):
                            products = add_dot_products[simd](
                                products,
                                levels[quarter * 4 + i],
                                broadcast_4_bytes[simd_width](
                                    values.unsafe_offset(i * 4)
                                ),
                            )
                        sums[token] += scale_dot_products[simd](products, scale)
        var super_scale = load_float16[simd_width](
            column.unsafe_offset(_SUPER_SCALE_OFFSET), stride
        )
        comptime for token in range(tokens):
            add_scaled[simd_width](
                super_block_sums.unsafe_offset(token * COLUMNS),
                sums[token].cast[DType.float32]() * super_scale,
                load_float(records.unsafe_offset(token * RECORD_BYTES + SCALE)),
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
        align_frame()
        comptime simd_width = simd.width
        var tile_part = tile.unsafe_offset(part * 4 * simd_width)
        var scales = load_transposed[simd_width](
            column.unsafe_offset(_SCALES_OFFSET), stride
        )
        comptime for i in range(4):
            comptime for j in range(4):
                store_vector(
                    tile_part.unsafe_offset(TILE_SCALES + (i * 4 + j) * TILE_VECTOR),
                    select_scales[simd, j, True](scales[i]),
                )
            comptime for j in range(2):
                store_vector(
                    tile_part.unsafe_offset(
                        _TILE_SCALE_PAIRS + (i * 2 + j) * TILE_VECTOR
                    ),
                    select_pairs[simd_width, 2 * j, 2 * j + 1, True](scales[i]),
                )
        store_vector(
            tile_part.unsafe_offset(_TILE_SUPER_SCALE),
            load_float16[simd_width](column.unsafe_offset(_SUPER_SCALE_OFFSET), stride),
        )
        for step in range(4):
            prefetch_columns[Self.SUPER_BLOCK_BYTES, simd_width // 4](
                upcoming, step, stride
            )
            var levels = _levels[simd_width](column, step, stride)
            comptime for quarter in range(4):
                var sub = step // 2 * 8 + step % 2 + quarter * 2
                comptime for i in range(4):
                    store_vector(
                        tile_part.unsafe_offset((sub * 4 + i) * TILE_VECTOR),
                        levels[quarter * 4 + i],
                    )

    @staticmethod
    @no_inline
    def multiply_tile[
        tokens: Int, simd: Simd
    ](tile: BytePointer, records: BytePointer, super_block_sums: FloatPointer):
        align_frame()
        comptime simd_width = simd.width
        comptime parts = COLUMNS // simd_width
        var sums = Array[Sums[simd_width], tokens * parts](fill=Sums[simd_width](0))
        comptime if simd.has_vnni:
            comptime for part in range(parts):
                comptime for pair in range(8):
                    var scales = load_vector[DType.int16, 2 * simd_width](
                        tile.unsafe_offset(
                            _TILE_SCALE_PAIRS
                            + pair * TILE_VECTOR
                            + part * 4 * simd_width
                        )
                    )
                    comptime for token in range(tokens):
                        sums[token * parts + part] -= _offsets[simd_width](
                            records.unsafe_offset(token * RECORD_BYTES), pair, scales
                        )
            comptime for index in range(tokens * parts):
                sums[index] <<= 5
        for sub in range(16):
            var factors = tile.unsafe_offset(TILE_SCALES + sub * TILE_VECTOR)
            var starts = Array[Products[simd], tokens](uninitialized=True)
            comptime for token in range(tokens):
                starts[token] = _start[simd](
                    records.unsafe_offset(token * RECORD_BYTES), sub
                )
            var products = tile_dot_products[tokens, 4, simd](
                tile.unsafe_offset(sub * 4 * TILE_VECTOR),
                records.unsafe_offset(sub * 16),
                starts,
            )
            comptime for part in range(parts):
                var scale = load_products[simd](
                    factors.unsafe_offset(part * 4 * simd_width)
                )
                comptime for token in range(tokens):
                    comptime index = token * parts + part
                    sums[index] += scale_dot_products[simd](products[index], scale)
        comptime for part in range(parts):
            var super_scale = load_vector[DType.float32, simd_width](
                tile.unsafe_offset(_TILE_SUPER_SCALE + part * 4 * simd_width)
            )
            comptime for token in range(tokens):
                comptime index = token * parts + part
                add_scaled[simd_width](
                    super_block_sums.unsafe_offset(index * simd_width),
                    sums[index].cast[DType.float32]() * super_scale,
                    load_float(records.unsafe_offset(token * RECORD_BYTES + SCALE)),
                )


@always_inline
def _start[simd: Simd](record: BytePointer, sub: Int) -> Products[simd]:
    """Returns what a sub-block's products with a token are added to.

    Without VNNI this takes off the zero point.
    """
    comptime if simd.has_vnni:
        return Products[simd](0)
    else:
        var offsets = record.unsafe_offset(OFFSETS_OF_16 + sub * 4)
        return rebind[Products[simd]](
            bitcast[DType.int16, 2 * simd.width](broadcast_4_bytes[simd.width](offsets))
        )


@always_inline
def _offsets[
    simd_width: Int
](record: BytePointer, pair: Int, scales: Pairs[simd_width]) -> Sums[simd_width]:
    """Returns a 32nd of what the zero point adds to two sub-blocks' products with a
    token."""
    var sums = broadcast_4_bytes[simd_width](
        record.unsafe_offset(SUMS_OF_16 + pair * 4)
    )
    return dot_int16_pairs[simd_width](
        bitcast[DType.int16, 2 * simd_width](sums), scales
    )


@always_inline
def _levels[
    simd_width: Int
](column: BytePointer, step: Int, stride: Int) -> Array[Levels[simd_width], 16]:
    """Returns the levels of four sub-blocks of each column.

    The sub-blocks belong to one half of 128 weights, in which sixteen bytes of high
    bits go with the low and the high halves of two times sixteen bytes.
    """
    var offset = step // 2 * 64 + step % 2 * 16
    var near = load_transposed[simd_width](column.unsafe_offset(offset), stride)
    var far = load_transposed[simd_width](column.unsafe_offset(offset + 32), stride)
    var high = load_transposed[simd_width](
        column.unsafe_offset(_HIGH_BITS_OFFSET + step // 2 * 32 + step % 2 * 16), stride
    )
    var levels = Array[Levels[simd_width], 16](uninitialized=True)
    comptime for i in range(4):
        levels[i] = (near[i] & 15) | ((high[i] & 3) << 4)
        levels[4 + i] = (far[i] & 15) | ((high[i] & 12) << 2)
        levels[8 + i] = (near[i] >> 4) | (high[i] & 48)
        levels[12 + i] = (far[i] >> 4) | ((high[i] & 192) >> 2)
    return levels^


@always_inline
def _offset_sums[
    simd_width: Int
](record: BytePointer, scales: BytePointer) -> Sums[simd_width]:
    """Returns sums that correct a super-block's products with a token for the zero
    point.

    The sums fill the first eight values; any others are zeros.
    """
    var eight_sums = dot_int16_pairs[8](
        load_vector[DType.int16, 16](record.unsafe_offset(SUMS_OF_16)),
        load_vector[DType.int16, 16](scales),
    )
    eight_sums *= -_ZERO_POINT
    comptime if simd_width == 8:
        return rebind[Sums[simd_width]](eight_sums)
    else:
        return rebind[Sums[simd_width]](eight_sums.join(Sums[8](0)))


@always_inline
def _levels_of_part[
    part: Int, simd_width: Int
](block: BytePointer) -> Levels[simd_width]:
    """Returns the levels of successive weights, four for each value of a vector of
    sums.

    In each half of 128 weights, the low halves of 64 bytes belong to the first 64
    weights and the high halves to the others; the pairs of bits of 32 bytes belong to
    four times 32 weights.
    """
    comptime first = part * 4 * simd_width
    comptime half = first // 128
    comptime quarter = first % 128 // 32
    var low = load_levels[simd_width](block.unsafe_offset(half * 64 + quarter % 2 * 32))
    var high = load_repeated[32, simd_width](
        block.unsafe_offset(_HIGH_BITS_OFFSET + half * 32)
    )
    comptime if quarter < 2:
        var top = shift_bytes[simd_width, 32, -4 + 2 * quarter, -2](high)
        return (low & 15) | (top & 48)
    else:
        var top = shift_bytes[simd_width, 32, 2 * quarter - 4, 2](high)
        return (low >> 4) | (top & 48)
