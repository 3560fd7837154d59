"""Vector operations on the super-blocks of one column.

A vector holds successive weights of a super-block, or one value of each of four
(`UNROLL`) super-blocks.
"""

from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic

from .simd import (
    UNROLL,
    BytePointer,
    Levels,
    Pairs,
    Sums,
    Values,
    interleave_indices,
    shuffle_bytes,
)

comptime MAX_GEMV_SUPER_BLOCKS = 64
"""Most super-blocks of a column: a token of so many stays in the L1 cache while columns
stream past."""
comptime SCALES_BYTES = 36 * MAX_GEMV_SUPER_BLOCKS
"""Bytes for the unpacked scales of a column: in q6_k sixteen int16 and a float32 for
each super-block, in q4_k fewer."""
comptime Bytes16 = SIMD[DType.uint8, 16]
comptime Words = SIMD[DType.uint32, 4 * UNROLL]
"""Sixteen bytes of each super-block."""


@always_inline
def load_16_bytes[count: Int](first: BytePointer, size: Int) -> Words:
    """Loads sixteen bytes of each super-block.

    Parameters:
        count: Number of super-blocks; the others are zeros.

    Args:
        first: The first super-block's bytes.
        size: Bytes from one super-block to the next.
    """

    @always_inline
    def load(super_block: Int) {imm} -> Bytes16:
        if super_block >= count:
            return 0
        return first.unsafe_offset(super_block * size).unsafe_load[
            width=16, alignment=1
        ](0)

    var lower = load(0).join(load(1))
    var upper = load(2).join(load(3))
    return bitcast[DType.uint32, 4 * UNROLL](lower.join(upper))


@always_inline
def expand_byte_scales[
    simd_width: Int, first: Int, run: Int, step: Int
](scales: BytePointer) -> Pairs[simd_width]:
    """Returns the scales of successive weights, one for each pair of weights.

    Parameters:
        simd_width: A quarter of the number of weights.
        first: Index of the first weight's scale.
        run: How many weights share a scale.
        step: Distance from the scale of one run to that of the next.

    Args:
        scales: Four scales of a byte each, at a multiple of four.
    """
    comptime indices = _scale_indices[simd_width, 1](first, run, step)
    var four = scales.unsafe_bitcast[UInt32]().unsafe_load(0)
    return _shuffled[simd_width](
        bitcast[DType.uint8, 4 * simd_width](SIMD[DType.uint32, simd_width](four)),
        indices,
    )


@always_inline
def expand_int16_scales[
    simd_width: Int, first: Int, run: Int
](scales: BytePointer) -> Pairs[simd_width]:
    """Returns what `expand_byte_scales` does, of eight int16 scales of successive
    runs."""
    comptime indices = _scale_indices[simd_width, 2](first, run, 1)
    return _shuffled[simd_width](load_repeated[16, simd_width](scales), indices)


@always_inline
def _shuffled[
    simd_width: Int
](bytes: Levels[simd_width], indices: Levels[simd_width]) -> Pairs[simd_width]:
    return bitcast[DType.int16, 2 * simd_width](
        shuffle_bytes[simd_width](bytes, indices)
    )


def _scale_indices[
    simd_width: Int, size: Int
](first: Int, run: Int, step: Int) -> Levels[simd_width]:
    """Returns the source of each byte of the scales of `size` bytes; 128 stands for
    zero."""
    var indices = Levels[simd_width](128)
    for byte in range(4 * simd_width):
        if byte % 2 < size:
            indices[byte] = UInt8((first + byte // run * step) * size + byte % 2)
    return indices


@always_inline
def dot_byte_pairs[
    simd_width: Int
](levels: Levels[simd_width], values: Values[simd_width]) -> Pairs[simd_width]:
    """Multiplies bytes and adds adjacent products, whose sums must fit int16."""
    comptime if simd_width == 8:
        return llvm_intrinsic[
            "llvm.x86.avx2.pmadd.ub.sw", Pairs[simd_width], has_side_effect=False
        ](levels, values)
    else:
        return llvm_intrinsic[
            "llvm.x86.avx512.pmaddubs.w.512", Pairs[simd_width], has_side_effect=False
        ](levels, values)


@always_inline
def load_levels[simd_width: Int](address: BytePointer) -> Levels[simd_width]:
    """Loads successive bytes."""
    return address.unsafe_load[width=4 * simd_width, alignment=1](0)


@always_inline
def load_values[simd_width: Int](address: BytePointer) -> Values[simd_width]:
    """Loads successive values of a token."""
    return bitcast[DType.int8, 4 * simd_width](load_levels[simd_width](address))


@always_inline
def load_repeated[
    size: Int, simd_width: Int
](address: BytePointer) -> Levels[simd_width]:
    """Loads 16 or 32 bytes and repeats them until they fill a vector."""
    var bytes = address.unsafe_load[width=size, alignment=1](0)
    comptime if size == 4 * simd_width:
        return rebind[Levels[simd_width]](bytes)
    elif 2 * size == 4 * simd_width:
        return rebind[Levels[simd_width]](bytes.join(bytes))
    else:
        var two = bytes.join(bytes)
        return rebind[Levels[simd_width]](two.join(two))


@always_inline
def shift_bytes[
    simd_width: Int, run: Int, even: Int, odd: Int
](bytes: Levels[simd_width]) -> Levels[simd_width]:
    """Shifts bytes to the right, or to the left where `even` or `odd` is negative.

    Bits cross from one byte to the next; the caller must mask the unwanted ones.

    Parameters:
        simd_width: A quarter of the number of bytes.
        run: How many successive bytes are shifted by the same distance.
        even: Distance of the first run, and of every second one from there.
        odd: Distance of the other runs, in the same direction.

    Args:
        bytes: The bytes.
    """
    comptime distances = _shift_distances[simd_width](run, abs(even), abs(odd))
    var words = bitcast[DType.uint32, simd_width](bytes)
    comptime if even < 0 or odd < 0:
        return bitcast[DType.uint8, 4 * simd_width](words << distances)
    else:
        return bitcast[DType.uint8, 4 * simd_width](words >> distances)


def _shift_distances[
    simd_width: Int
](run: Int, even: Int, odd: Int) -> SIMD[DType.uint32, simd_width]:
    var distances = SIMD[DType.uint32, simd_width](0)
    for word in range(simd_width):
        distances[word] = UInt32(odd if 4 * word // run % 2 else even)
    return distances


@always_inline
def super_block_sums[
    simd_width: Int
](sums: Array[Sums[simd_width], UNROLL], others: Sums[2 * UNROLL]) -> SIMD[
    DType.int32, 2 * UNROLL
]:
    """Returns the sum of all values of each super-block's vector, then the sums of
    every fourth value of `others`."""
    comptime low = interleave_indices[simd_width, 1](0)
    comptime high = interleave_indices[simd_width, 1](2)
    comptime low_pairs = interleave_indices[simd_width, 2](0)
    comptime high_pairs = interleave_indices[simd_width, 2](2)
    var lower = sums[0].shuffle[low](sums[1]) + sums[0].shuffle[high](sums[1])
    var upper = sums[2].shuffle[low](sums[3]) + sums[2].shuffle[high](sums[3])
    # One sum of each super-block, then a second one of each.
    var mixed = lower.shuffle[low_pairs](upper) + lower.shuffle[high_pairs](upper)
    comptime eight = 2 * UNROLL
    var eight_sums = mixed.slice[eight]()
    comptime if simd_width > eight:
        eight_sums += mixed.slice[eight, offset=eight]()
    var first = eight_sums.slice[UNROLL]().join(others.slice[UNROLL]())
    var last = eight_sums.slice[UNROLL, offset=UNROLL]().join(
        others.slice[UNROLL, offset=UNROLL]()
    )
    return first + last
