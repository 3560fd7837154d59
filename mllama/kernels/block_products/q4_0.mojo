"""Blocks of 32: a float16 scale, then levels of 4 bits, the halves interleaved."""

from std.math import fma

from .activations import EIGHTFOLD_SUMS, SCALE
from .formats import FACTORS, BlockFormat
from .lanes import (
    HALVES,
    RECORD,
    VECTOR,
    Bytes,
    Floats,
    Lanes,
    Products,
    add_to,
    byte_products,
    fetch,
    float_at,
    four_bytes,
    half_floats,
    keep,
    kept,
    pair_sums,
    tile_products,
    transposed,
)

comptime _BLOCK = 18


struct Q4_0(BlockFormat):
    """A weight is its level less 8, times its block's scale.

    Eight products of a level (to 15) and a value (to 127), two of each in a lane, fit
    int16: those of a block are summed before its scale is applied.
    """

    comptime SIZE = 8 * _BLOCK

    @staticmethod
    def multiply_packed[
        rows: Int
    ](column: Bytes, stride: Int, ahead: Bytes, records: Bytes, totals: Floats):
        var sums = Array[Lanes, rows](fill=Lanes(0))
        comptime for block in range(8):
            fetch[Self.SIZE](ahead.unsafe_offset(block * stride))
            var start = column.unsafe_offset(block * _BLOCK)
            var packed = transposed(start.unsafe_offset(2), stride)
            var scales = half_floats(start, stride)
            var products = Array[Products, rows](fill=Products(0))
            comptime for i in range(4):
                comptime for row in range(rows):
                    var values = records.unsafe_offset(
                        row * RECORD + block * 32 + i * 4
                    )
                    products[row] += byte_products(packed[i] & 15, four_bytes(values))
                    products[row] += byte_products(
                        packed[i] >> 4, four_bytes(values.unsafe_offset(16))
                    )
            comptime for row in range(rows):
                var record = records.unsafe_offset(row * RECORD)
                sums[row] = fma(_sum(products[row], record, block), scales, sums[row])
        comptime for row in range(rows):
            var scale = float_at(records.unsafe_offset(row * RECORD + SCALE))
            add_to(totals.unsafe_offset(row * 8 * HALVES), sums[row], scale)

    @staticmethod
    def unpack(column: Bytes, stride: Int, tile: Bytes, half: Int):
        var place = tile.unsafe_offset(half * 32)
        comptime for block in range(8):
            var start = column.unsafe_offset(block * _BLOCK)
            keep(
                place.unsafe_offset(FACTORS + block * VECTOR),
                half_floats(start, stride),
            )
            var packed = transposed(start.unsafe_offset(2), stride)
            comptime for i in range(4):
                comptime quad = block * 8 + i
                keep(place.unsafe_offset(quad * VECTOR), packed[i] & 15)
                keep(place.unsafe_offset((quad + 4) * VECTOR), packed[i] >> 4)

    @staticmethod
    def multiply[rows: Int](tile: Bytes, records: Bytes, totals: Floats):
        var sums = Array[Lanes, rows * HALVES](fill=Lanes(0))
        for block in range(8):
            var products = tile_products[rows, 8](
                tile.unsafe_offset(block * 8 * VECTOR),
                records.unsafe_offset(block * 32),
            )
            var factors = tile.unsafe_offset(FACTORS + block * VECTOR)
            comptime for half in range(HALVES):
                var scale = kept[DType.float32, 8](factors.unsafe_offset(half * 32))
                comptime for row in range(rows):
                    comptime at = row * HALVES + half
                    var record = records.unsafe_offset(row * RECORD)
                    sums[at] = fma(_sum(products[at], record, block), scale, sums[at])
        comptime for row in range(rows):
            var scale = float_at(records.unsafe_offset(row * RECORD + SCALE))
            comptime for half in range(HALVES):
                comptime at = row * HALVES + half
                add_to(totals.unsafe_offset(at * 8), sums[at], scale)


@always_inline
def _sum(products: Products, record: Bytes, block: Int) -> Lanes:
    """Sum of the products with a block's levels, less 8."""
    var eight = float_at(record.unsafe_offset(EIGHTFOLD_SUMS + block * 4))
    return pair_sums(products, Products(1)).cast[DType.float32]() - Lanes(eight)
