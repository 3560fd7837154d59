"""Rows of floats as bytes, with a scale for every 256 of them.

A record holds 256 bytes of a row, then what its products with blocks need besides.
Those of a single row are laid out once more, four at a time, as q4_k needs them.
"""

from std.math import ceildiv, round
from std.memory import bitcast

from .lanes import RECORD, SPAN, SPANS, Bytes

comptime SUMS_OF_16 = 256
"""Place of the sums of sixteen values, int16."""
comptime SUMS_OF_32 = 288
"""Place of the sums of thirty-two values, int16."""
comptime SCALE = 304
"""Place of the scale, float32."""
comptime EIGHTFOLD_SUMS = 320
"""Place of eight times the sums of thirty-two values, float32."""

comptime CROSSED = SPANS * SPAN + 64
"""Bytes for four records as `cross` lays them out."""
comptime CROSSED_SUMS = SPANS * SPAN
"""Place of their sums there."""

comptime _NOT_FINITE = UInt32(0x7F800000)
comptime _SMALLEST = Float32(1e-30)
"""Values below it are zeros: the inverse of their scale might overflow."""


@always_inline
def quantize(values: Pointer[Float32, MutUntrackedOrigin], record: Bytes):
    """Quantizes 256 values to the nearest of -127 to 127 times a scale.

    A scale of NaN stands for values that hold NaN or infinity.
    """
    var largest = SIMD[DType.uint32, 8](0)
    for i in range(0, SPAN, 8):
        var some = values.unsafe_load[width=8, alignment=4](i)
        largest = max(largest, bitcast[DType.uint32, 8](some) & 0x7FFFFFFF)
    var top = largest.reduce_max()
    var extreme = Float32(from_bits=top)
    var scale = extreme / 127
    var inverse = Float32(0)
    if top >= _NOT_FINITE:
        scale = Float32(from_bits=UInt32(0x7FC00000))
    elif extreme < _SMALLEST:
        scale = 0
    else:
        inverse = 127 / extreme
    record.unsafe_offset(SCALE).unsafe_bitcast[Float32]().unsafe_store(0, scale)
    var small = record.unsafe_bitcast[Int8]()
    var sums_of_16 = record.unsafe_offset(SUMS_OF_16).unsafe_bitcast[Int16]()
    var sums_of_32 = record.unsafe_offset(SUMS_OF_32).unsafe_bitcast[Int16]()
    var eightfold_sums = record.unsafe_offset(EIGHTFOLD_SUMS).unsafe_bitcast[Float32]()
    if inverse == 0:
        for i in range(0, SPAN, 32):
            small.unsafe_store(i, SIMD[DType.int8, 32](0))
        sums_of_16.unsafe_store(0, SIMD[DType.int16, 16](0))
        sums_of_32.unsafe_store(0, SIMD[DType.int16, 8](0))
        eightfold_sums.unsafe_store(0, SIMD[DType.float32, 8](0))
        return
    for i in range(SPAN // 32):
        var pair = Int16(0)
        comptime for half in range(2):
            var place = i * 32 + half * 16
            var some = values.unsafe_load[width=16, alignment=4](place)
            var levels = round(some * inverse).cast[DType.int32]().cast[DType.int16]()
            small.unsafe_store(place, levels.cast[DType.int8]())
            var sum = levels.reduce_add()
            sums_of_16.unsafe_store(i * 2 + half, sum)
            pair += sum
        sums_of_32.unsafe_store(i, pair)
        eightfold_sums.unsafe_store(i, 8 * Float32(pair))


def cross(records: Bytes, count: Int, crossed: Bytes):
    """Lays values and sums of up to four records out as blocks of q4_k have levels.

    Where 64 bytes have the levels of 128 weights, the first and the third 32 are in the
    low halves: the second and the third 32 values change places.  Sums of 64 successive
    values, two int16, follow those of the same values of the other records.

    Args:
        records: The first.
        count: How many there are; the sums of others are zeros.
        crossed: Where they go.
    """
    var sums = crossed.unsafe_offset(CROSSED_SUMS).unsafe_bitcast[UInt32]()
    sums.unsafe_store(0, SIMD[DType.uint32, 4 * SPANS](0))
    for i in range(count):
        var record = records.unsafe_offset(i * RECORD)
        var values = crossed.unsafe_offset(i * SPAN)
        for first in range(0, SPAN, 128):
            comptime for quarter in range(4):
                comptime place = quarter // 2 + quarter % 2 * 2
                values.unsafe_store(
                    first + place * 32,
                    record.unsafe_load[width=32](first + quarter * 32),
                )
        var pairs = record.unsafe_offset(SUMS_OF_32).unsafe_bitcast[UInt32]()
        for pair in range(4):
            sums.unsafe_store(pair * SPANS + i, pairs.unsafe_load(pair))
