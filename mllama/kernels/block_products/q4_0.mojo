"""Blocks of 32: a float16 scale, then levels of 4 bits, the halves interleaved."""

from std.math import fma
from std.memory import bitcast

from .activations import RECORD, SCALE, EIGHTFOLD_SUMS
from .formats import FACTORS, BlockFormat
from .lanes import (
    HALVES,
    Bytes,
    Floats,
    Lanes,
    Products,
    byte_products,
    four_bytes,
    pair_sums,
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
    def unpack(column: Bytes, stride: Int, tile: Bytes, half: Int):
        var place = tile.unsafe_offset(half * 32)
        comptime for block in range(8):
            var scales = SIMD[DType.float16, 8](0)
            comptime for i in range(8):
                scales[i] = column.unsafe_offset(
                    i * stride + block * _BLOCK
                ).unsafe_bitcast[Float16]().unsafe_load[alignment=1](0)
            place.unsafe_store(
                FACTORS + block * HALVES * 32,
                bitcast[DType.uint8, 32](scales.cast[DType.float32]()),
            )
            var packed = transposed(column.unsafe_offset(block * _BLOCK + 2), stride)
            comptime for i in range(4):
                comptime quad = block * 8 + i
                place.unsafe_store(quad * HALVES * 32, packed[i] & 15)
                place.unsafe_store((quad + 4) * HALVES * 32, packed[i] >> 4)

    @staticmethod
    def multiply[rows: Int](tile: Bytes, records: Bytes, totals: Floats):
        var sums = Array[Lanes, rows * HALVES](fill=Lanes(0))
        for block in range(8):
            var levels = tile.unsafe_offset(block * 8 * HALVES * 32)
            var values = records.unsafe_offset(block * 32)
            var products = Array[Products, rows * HALVES](fill=Products(0))
            comptime for i in range(8):
                var first = levels.unsafe_load[width=32](i * HALVES * 32)
                var second = levels.unsafe_load[width=32](i * HALVES * 32 + 32)
                comptime for row in range(rows):
                    var four = four_bytes(values.unsafe_offset(row * RECORD + i * 4))
                    products[2 * row] += byte_products(first, four)
                    products[2 * row + 1] += byte_products(second, four)
            var factors = tile.unsafe_offset(FACTORS + block * HALVES * 32)
            comptime for half in range(HALVES):
                var scale = bitcast[DType.float32, 8](
                    factors.unsafe_load[width=32](half * 32)
                )
                comptime for row in range(rows):
                    comptime at = row * HALVES + half
                    var eight = records.unsafe_offset(
                        row * RECORD + EIGHTFOLD_SUMS + block * 4
                    ).unsafe_bitcast[Float32]().unsafe_load(0)
                    var product = pair_sums(products[at], Products(1))
                    sums[at] = fma(
                        product.cast[DType.float32]() - Lanes(eight), scale, sums[at]
                    )
        comptime for row in range(rows):
            var scale = records.unsafe_offset(row * RECORD + SCALE).unsafe_bitcast[
                Float32
            ]().unsafe_load(0)
            comptime for half in range(HALVES):
                comptime at = row * HALVES + half
                var total = totals.unsafe_offset(at * 8)
                total.unsafe_store(
                    0, fma(sums[at], Lanes(scale), total.unsafe_load[width=8](0))
                )
