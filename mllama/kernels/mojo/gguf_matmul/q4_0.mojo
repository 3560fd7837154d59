"""Blocks of 32: a float16 scale, then levels of 4 bits, the halves interleaved."""

from std.math import fma

from .activations import EIGHTFOLD_SUMS, SCALE
from .fetching import fetch_columns
from .formats import FACTORS, BlockFormat
from .lanes import (
    COLUMNS,
    RECORD,
    VECTOR,
    Bytes,
    Floats,
    Lanes,
    Products,
    add_to,
    float_at,
    four_bytes,
    half_floats,
    keep,
    kept,
    scaled_sums,
    tile_products,
    transposed,
    with_products,
)

comptime _BLOCK = 18


struct Q4_0(BlockFormat):
    """A weight is its level less 8, times its block's scale.

    Eight products of a level (to 15) and a value (to 127) fit int16, in which AVX2 sums
    a quarter of a block: those of a block are summed before its scale is applied.
    """

    comptime SIZE = 8 * _BLOCK

    @staticmethod
    def multiply_packed[
        rows: Int, lanes: Int
    ](column: Bytes, stride: Int, ahead: Bytes, records: Bytes, totals: Floats):
        var sums = Array[Lanes[lanes], rows](fill=Lanes[lanes](0))
        comptime for block in range(8):
            fetch_columns[Self.SIZE, lanes // 8](ahead, block, stride)
            var start = column.unsafe_offset(block * _BLOCK)
            var packed = transposed[lanes](start.unsafe_offset(2), stride)
            var scales = half_floats[lanes](start, stride)
            var products = Array[Products[lanes], rows](fill=Products[lanes](0))
            comptime for i in range(4):
                comptime for row in range(rows):
                    var values = records.unsafe_offset(
                        row * RECORD + block * 32 + i * 4
                    )
                    products[row] = with_products[lanes](
                        products[row], packed[i] & 15, four_bytes[lanes](values)
                    )
                    products[row] = with_products[lanes](
                        products[row],
                        packed[i] >> 4,
                        four_bytes[lanes](values.unsafe_offset(16)),
                    )
            comptime for row in range(rows):
                var record = records.unsafe_offset(row * RECORD)
                sums[row] = fma(
                    _sum[lanes](products[row], record, block), scales, sums[row]
                )
        comptime for row in range(rows):
            var scale = float_at(records.unsafe_offset(row * RECORD + SCALE))
            add_to[lanes](totals.unsafe_offset(row * COLUMNS), sums[row], scale)

    @staticmethod
    def unpack[lanes: Int](column: Bytes, stride: Int, tile: Bytes, part: Int):
        var place = tile.unsafe_offset(part * 4 * lanes)
        comptime for block in range(8):
            var start = column.unsafe_offset(block * _BLOCK)
            keep(
                place.unsafe_offset(FACTORS + block * VECTOR),
                half_floats[lanes](start, stride),
            )
            var packed = transposed[lanes](start.unsafe_offset(2), stride)
            comptime for i in range(4):
                comptime quad = block * 8 + i
                keep(place.unsafe_offset(quad * VECTOR), packed[i] & 15)
                keep(place.unsafe_offset((quad + 4) * VECTOR), packed[i] >> 4)

    @staticmethod
    def multiply[rows: Int, lanes: Int](tile: Bytes, records: Bytes, totals: Floats):
        comptime parts = COLUMNS // lanes
        var sums = Array[Lanes[lanes], rows * parts](fill=Lanes[lanes](0))
        for block in range(8):
            var products = tile_products[rows, 8, lanes](
                tile.unsafe_offset(block * 8 * VECTOR),
                records.unsafe_offset(block * 32),
            )
            var factors = tile.unsafe_offset(FACTORS + block * VECTOR)
            comptime for part in range(parts):
                var scale = kept[DType.float32, lanes](
                    factors.unsafe_offset(part * 4 * lanes)
                )
                comptime for row in range(rows):
                    comptime at = row * parts + part
                    var record = records.unsafe_offset(row * RECORD)
                    sums[at] = fma(
                        _sum[lanes](products[at], record, block), scale, sums[at]
                    )
        comptime for row in range(rows):
            var scale = float_at(records.unsafe_offset(row * RECORD + SCALE))
            comptime for part in range(parts):
                comptime at = row * parts + part
                add_to[lanes](totals.unsafe_offset(at * lanes), sums[at], scale)


@always_inline
def _sum[
    lanes: Int
](products: Products[lanes], record: Bytes, block: Int) -> Lanes[lanes]:
    """Sum of the products with a block's levels, less 8."""
    var eight = float_at(record.unsafe_offset(EIGHTFOLD_SUMS + block * 4))
    var sums = scaled_sums[lanes](products, Products[lanes](1))
    return sums.cast[DType.float32]() - Lanes[lanes](eight)
