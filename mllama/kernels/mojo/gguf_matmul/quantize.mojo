"""Quantizes activations to int8, with a scale for every 256 values.

A record has 256 quantized values of a token, then what its products with GGUF blocks
need besides (like ggml's `block_q8_K`). The values and sums of a single token are
copied once more, in the order in which q4_k needs them.
"""

from std.math import round
from std.memory import bitcast

from .simd import RECORD_BYTES, SUPER_BLOCK, UNROLL, BytePointer

comptime SUMS_OF_16 = 256
"""Offset in a record of the sums of sixteen values, int16."""
comptime SUMS_OF_32 = 288
"""Offset in a record of the sums of thirty-two values, int16."""
comptime SCALE = 304
"""Offset in a record of the scale, float32."""
comptime EIGHTFOLD_SUMS = 320
"""Offset in a record of eight times the sums of thirty-two values, float32."""
comptime OFFSETS_OF_16 = 352
"""Offset in a record of what a zero point of 32 adds to the products of sixteen values,
negated: two int16, for the first two and the last two of every four values."""

comptime GROUPED_SUMS_BYTES = 16 * UNROLL
"""Bytes of the sums of four records as `group_sums` lays them out."""

comptime _NOT_FINITE = UInt32(0x7F800000)
comptime _SMALLEST = Float32(1e-30)
"""Smaller values become zeros: the inverse of their scale might overflow."""


@always_inline
def quantize_record(values: Pointer[Float32, MutUntrackedOrigin], record: BytePointer):
    """Quantizes 256 values to the nearest of -127 to 127 times a scale.

    The scale is NaN if a value is NaN or infinity.
    """
    var largest = SIMD[DType.uint32, 8](0)
    for i in range(0, SUPER_BLOCK, 8):
        var vector = values.unsafe_load[width=8, alignment=4](i)
        largest = max(largest, bitcast[DType.uint32, 8](vector) & 0x7FFFFFFF)
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
    var quantized = record.unsafe_bitcast[Int8]()
    var sums_of_16 = record.unsafe_offset(SUMS_OF_16).unsafe_bitcast[Int16]()
    var sums_of_32 = record.unsafe_offset(SUMS_OF_32).unsafe_bitcast[Int16]()
    var eightfold_sums = record.unsafe_offset(EIGHTFOLD_SUMS).unsafe_bitcast[Float32]()
    var offsets_of_16 = record.unsafe_offset(OFFSETS_OF_16).unsafe_bitcast[Int16]()
    if inverse == 0:
        for i in range(0, SUPER_BLOCK, 32):
            quantized.unsafe_store(i, SIMD[DType.int8, 32](0))
        sums_of_16.unsafe_store(0, SIMD[DType.int16, 16](0))
        sums_of_32.unsafe_store(0, SIMD[DType.int16, 8](0))
        eightfold_sums.unsafe_store(0, SIMD[DType.float32, 8](0))
        offsets_of_16.unsafe_store(0, SIMD[DType.int16, 32](0))
        return
    for i in range(SUPER_BLOCK // 32):
        var pair = Int16(0)
        comptime for half in range(2):
            var offset = i * 32 + half * 16
            var vector = values.unsafe_load[width=16, alignment=4](offset)
            var levels = round(vector * inverse).cast[DType.int32]().cast[DType.int16]()
            quantized.unsafe_store(offset, levels.cast[DType.int8]())
            var every_second = levels.deinterleave()
            var pairs = (every_second[0] + every_second[1]).deinterleave()
            var first, last = pairs[0].reduce_add(), pairs[1].reduce_add()
            var sum = first + last
            sums_of_16.unsafe_store(i * 2 + half, sum)
            offsets_of_16.unsafe_store(i * 4 + half * 2, first * -32)
            offsets_of_16.unsafe_store(i * 4 + half * 2 + 1, last * -32)
            pair += sum
        sums_of_32.unsafe_store(i, pair)
        eightfold_sums.unsafe_store(i, 8 * Float32(pair))


def reorder_values(record: BytePointer, values: BytePointer):
    """Lays out a record's values in the order of q4_k's levels.

    64 bytes of a block hold the levels of 128 weights: the first and the third 32 in
    the low halves of bytes. Hence the second and the third 32 values change places.

    Args:
        record: The record.
        values: Output, 256 values.
    """
    for first in range(0, SUPER_BLOCK, 128):
        comptime for quarter in range(4):
            comptime offset = quarter // 2 + quarter % 2 * 2
            values.unsafe_store(
                first + offset * 32, record.unsafe_load[width=32](first + quarter * 32)
            )


def group_sums(records: BytePointer, count: Int, sums: BytePointer):
    """Lays out the sums of thirty-two values of up to four records next to each other.

    Args:
        records: The first record.
        count: Number of records; the sums of missing ones are zeros.
        sums: Output, `GROUPED_SUMS_BYTES`: four int16 of each record, then the last
            four of each.
    """
    var fours = sums.unsafe_bitcast[UInt64]()
    fours.unsafe_store(0, SIMD[DType.uint64, 2 * UNROLL](0))
    for i in range(count):
        var record = records.unsafe_offset(i * RECORD_BYTES + SUMS_OF_32)
        for half in range(2):
            var four = record.unsafe_bitcast[UInt64]().unsafe_load(half)
            fours.unsafe_store(half * UNROLL + i, four)
