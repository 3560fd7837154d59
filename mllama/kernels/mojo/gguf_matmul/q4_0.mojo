"""Q4_0: blocks of 32 weights with a float16 scale, then 4-bit levels, halves
interleaved."""

from std.math import fma

from .quantize import EIGHTFOLD_SUMS, SCALE
from .prefetch import prefetch_columns
from .formats import TILE_SCALES, BlockFormat
from .simd import (
    COLUMNS,
    RECORD_BYTES,
    TILE_VECTOR,
    BytePointer,
    FloatPointer,
    FloatVector,
    Products,
    Simd,
    add_scaled,
    load_float,
    broadcast_4_bytes,
    load_float16,
    store_vector,
    load_vector,
    scale_dot_products,
    tile_dot_products,
    load_transposed,
    add_dot_products,
    align_frame,
)

comptime _BLOCK_BYTES = 18


struct Q4_0(BlockFormat):
    """A weight is its level less 8, times its block's scale.

    Eight products of a level (to 15) and a value (to 127) fit int16, in which AVX2 sums
    a quarter of a block: the products of a block are summed before its scale is
    applied.
    """

    comptime SUPER_BLOCK_BYTES = 8 * _BLOCK_BYTES

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
        var sums = Array[FloatVector[simd_width], tokens](
            fill=FloatVector[simd_width](0)
        )
        for block in range(8):
            prefetch_columns[Self.SUPER_BLOCK_BYTES, simd_width // 8](
                upcoming, block, stride
            )
            var start = column.unsafe_offset(block * _BLOCK_BYTES)
            var packed = load_transposed[simd_width](start.unsafe_offset(2), stride)
            var scales = load_float16[simd_width](start, stride)
            var products = Array[Products[simd], tokens](
                fill=Products[simd](0)
            )
            comptime for i in range(4):
                comptime for token in range(tokens):
                    var values = records.unsafe_offset(
                        token * RECORD_BYTES + block * 32 + i * 4
                    )
                    products[token] = add_dot_products[simd](
                        products[token],
                        packed[i] & 15,
                        broadcast_4_bytes[simd_width](values),
                    )
                    products[token] = add_dot_products[simd](
                        products[token],
                        packed[i] >> 4,
                        broadcast_4_bytes[simd_width](values.unsafe_offset(16)),
                    )
            comptime for token in range(tokens):
                var record = records.unsafe_offset(token * RECORD_BYTES)
                sums[token] = fma(
                    _centered_sums[simd](products[token], record, block),
                    scales,
                    sums[token],
                )
        comptime for token in range(tokens):
            var scale = load_float(records.unsafe_offset(token * RECORD_BYTES + SCALE))
            add_scaled[simd_width](
                totals.unsafe_offset(token * COLUMNS), sums[token], scale
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
        for block in range(8):
            prefetch_columns[Self.SUPER_BLOCK_BYTES, simd_width // 8](
                upcoming, block, stride
            )
            var start = column.unsafe_offset(block * _BLOCK_BYTES)
            store_vector(
                tile_part.unsafe_offset(TILE_SCALES + block * TILE_VECTOR),
                load_float16[simd_width](start, stride),
            )
            var packed = load_transposed[simd_width](start.unsafe_offset(2), stride)
            comptime for i in range(4):
                var quad = block * 8 + i
                store_vector(
                    tile_part.unsafe_offset(quad * TILE_VECTOR), packed[i] & 15
                )
                store_vector(
                    tile_part.unsafe_offset((quad + 4) * TILE_VECTOR), packed[i] >> 4
                )

    @staticmethod
    @no_inline
    def multiply_tile[
        tokens: Int, simd: Simd
    ](tile: BytePointer, records: BytePointer, totals: FloatPointer):
        align_frame()
        comptime simd_width = simd.width
        comptime parts = COLUMNS // simd_width
        var sums = Array[FloatVector[simd_width], tokens * parts](
            fill=FloatVector[simd_width](0)
        )
        for block in range(8):
            var products = tile_dot_products[tokens, 8, simd](
                tile.unsafe_offset(block * 8 * TILE_VECTOR),
                records.unsafe_offset(block * 32),
                Array[Products[simd], tokens](fill=Products[simd](0)),
            )
            var factors = tile.unsafe_offset(TILE_SCALES + block * TILE_VECTOR)
            comptime for part in range(parts):
                var scale = load_vector[DType.float32, simd_width](
                    factors.unsafe_offset(part * 4 * simd_width)
                )
                comptime for token in range(tokens):
                    comptime index = token * parts + part
                    var record = records.unsafe_offset(token * RECORD_BYTES)
                    sums[index] = fma(
                        _centered_sums[simd](products[index], record, block),
                        scale,
                        sums[index],
                    )
        comptime for token in range(tokens):
            var scale = load_float(records.unsafe_offset(token * RECORD_BYTES + SCALE))
            comptime for part in range(parts):
                comptime index = token * parts + part
                add_scaled[simd_width](
                    totals.unsafe_offset(index * simd_width), sums[index], scale
                )


@always_inline
def _centered_sums[
    simd: Simd
](products: Products[simd], record: BytePointer, block: Int) -> FloatVector[simd.width]:
    """Returns the sums of products of values with a block's levels less 8."""
    var eight = load_float(record.unsafe_offset(EIGHTFOLD_SUMS + block * 4))
    var sums = scale_dot_products[simd](products, Products[simd](1))
    return sums.cast[DType.float32]() - FloatVector[simd.width](eight)
