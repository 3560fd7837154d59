"""Vector operations on successive super-blocks of one column, four (`UNROLL`) at a
time.

A vector holds successive weights of a column, or one sum of each of the four
super-blocks.
"""

from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic
from std.utils.index import IndexList

from .simd import (
    UNROLL,
    BytePointer,
    Levels,
    Pairs,
    Sums,
    Values,
    interleave_indices,
    dot_int16_pairs,
    shuffle_bytes,
)

comptime PerSuperBlock[dtype: DType] = SIMD[dtype, UNROLL]
"""One value of each super-block."""
comptime Bytes16 = SIMD[DType.uint8, 16]
comptime Words = SIMD[DType.uint32, 4 * UNROLL]
"""Sixteen bytes of each super-block."""
comptime _LAST_WORDS = IndexList[4 * UNROLL](
    3, 3, 3, 3, 7, 7, 7, 7, 11, 11, 11, 11, 15, 15, 15, 15
)


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
def first_words(words: Words) -> PerSuperBlock[DType.uint32]:
    """Returns the first word of each super-block."""
    return words.deinterleave()[0].deinterleave()[0]


@always_inline
def last_words(words: Words) -> Words:
    """Returns the last word of each super-block, four times."""
    return words.shuffle[_LAST_WORDS]()


@always_inline
def minima_dot_products[
    simd_width: Int
](sums: BytePointer, minima: SIMD[DType.uint8, 8 * UNROLL]) -> Sums[simd_width]:
    """Returns the products of sums with minima, each super-block's summed in every
    fourth value.

    Args:
        sums: Int16, two of each super-block, then the next two.
        minima: In the same order.
    """
    comptime count = 8 * UNROLL
    var sums_of_32 = sums.unsafe_bitcast[Int16]().unsafe_load[width=count](0)
    var int16_minima = minima.cast[DType.int16]()
    comptime if simd_width == 8:
        var lower = dot_int16_pairs[8](sums_of_32.slice[16](), int16_minima.slice[16]())
        var upper = dot_int16_pairs[8](
            sums_of_32.slice[16, offset=16](), int16_minima.slice[16, offset=16]()
        )
        return rebind[Sums[simd_width]](lower + upper)
    else:
        return rebind[Sums[simd_width]](
            dot_int16_pairs[16](
                rebind[Pairs[16]](sums_of_32), rebind[Pairs[16]](int16_minima)
            )
        )


@always_inline
def broadcast_super_block[
    simd_width: Int, super_block: Int
](words: Words) -> Levels[simd_width]:
    """Repeats the sixteen bytes of a super-block to fill a vector."""
    var bytes = words.slice[4, offset=4 * super_block]()
    var two = bytes.join(bytes)
    comptime if simd_width == 8:
        return bitcast[DType.uint8, 4 * simd_width](two)
    else:
        return bitcast[DType.uint8, 4 * simd_width](two.join(two))


@always_inline
def expand_scales[
    simd_width: Int, first: Int, run: Int, step: Int
](bytes: Levels[simd_width]) -> Pairs[simd_width]:
    """Returns the scales of successive weights, one for each pair of weights.

    Parameters:
        simd_width: A quarter of the number of weights.
        first: Index of the first weight's scale among sixteen.
        run: How many weights share a scale.
        step: Distance from the scale of one run to that of the next.

    Args:
        bytes: The scales, as of `broadcast_super_block`.
    """
    comptime indices = _scale_indices[simd_width](first, run, step)
    return bitcast[DType.int16, 2 * simd_width](
        shuffle_bytes[simd_width](bytes, indices)
    )


def _scale_indices[
    simd_width: Int
](first: Int, run: Int, step: Int) -> Levels[simd_width]:
    """Returns the source of each byte of the scales; 128 stands for zero."""
    var indices = Levels[simd_width](128)
    for pair in range(2 * simd_width):
        indices[2 * pair] = UInt8(first + 2 * pair // run * step)
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
def load_32_bytes[simd_width: Int](address: BytePointer) -> Levels[simd_width]:
    """Loads thirty-two bytes, and repeats them if a vector holds 64."""
    var bytes = address.unsafe_load[width=32, alignment=1](0)
    comptime if simd_width == 8:
        return rebind[Levels[simd_width]](bytes)
    else:
        return rebind[Levels[simd_width]](bytes.join(bytes))


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
](sums: Array[Sums[simd_width], UNROLL]) -> PerSuperBlock[DType.int32]:
    """Returns the sum of all values of each super-block's vector."""
    return super_block_and_minima_sums[simd_width](sums, Sums[simd_width](0)).slice[
        UNROLL
    ]()


@always_inline
def super_block_and_minima_sums[
    simd_width: Int
](sums: Array[Sums[simd_width], UNROLL], int16_minima: Sums[simd_width]) -> SIMD[
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
    return _fold[simd_width](mixed, int16_minima)


@always_inline
def _fold[
    simd_width: Int
](sums: Sums[simd_width], int16_minima: Sums[simd_width]) -> SIMD[
    DType.int32, 2 * UNROLL
]:
    """Returns the sums of every fourth value, beginning with each of the first four, of
    both vectors."""
    comptime half = simd_width // 2
    comptime lower = _half_indices[simd_width](0)
    comptime upper = _half_indices[simd_width](half)
    var both = sums.shuffle[lower](int16_minima) + sums.shuffle[upper](int16_minima)
    comptime if simd_width == 2 * UNROLL:
        return rebind[SIMD[DType.int32, 2 * UNROLL]](both)
    else:
        return _fold[half](
            rebind[Sums[half]](both.slice[half]()),
            rebind[Sums[half]](both.slice[half, offset=half]()),
        )


def _half_indices[simd_width: Int](first: Int) -> IndexList[simd_width]:
    """Returns indices of half a vector, beginning with `first`, then of the same half
    of another vector."""
    var indices = IndexList[simd_width]()
    for i in range(simd_width):
        indices[i] = first + i % (simd_width // 2) + i // (simd_width // 2) * simd_width
    return indices
