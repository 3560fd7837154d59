"""Operations on SIMD vectors of float32.

AVX2 has 16 registers of 8 values, AVX-512 has 32 registers of 16 values.
"""

from std.math import fma

comptime FloatPointer = Pointer[Float32, MutUntrackedOrigin]
comptime FloatVector[count: Int] = SIMD[DType.float32, count]

comptime LOG2_E = Float32(1.4426950408889634)
comptime LOWEST = Float32(-3.0e38)
"""Less than every score: the initial value of a maximum."""


@always_inline
def load[
    dtype: DType, //, simd_width: Int
](values: Pointer[Scalar[dtype], MutUntrackedOrigin], index: Int) -> FloatVector[
    simd_width
]:
    """Loads float32, bfloat16 or int8 values as float32."""
    comptime if dtype == DType.bfloat16:
        # A bfloat16 is the upper half of a float32's bits.
        var bits = values.unsafe_bitcast[UInt16]().unsafe_load[
            width=simd_width, alignment=2
        ](index)
        return FloatVector[simd_width](from_bits=bits.cast[DType.uint32]() << 16)
    else:
        return values.unsafe_load[width=simd_width, alignment=2](index).cast[
            DType.float32
        ]()


@always_inline
def load_two_vectors[
    dtype: DType, //, simd_width: Int
](values: Pointer[Scalar[dtype], MutUntrackedOrigin], index: Int) -> Tuple[
    FloatVector[simd_width], FloatVector[simd_width]
]:
    """Loads two successive vectors of values, in the order of `deinterleave_row`."""
    comptime if dtype == DType.bfloat16:
        var bits = (
            values.unsafe_offset(index)
            .unsafe_bitcast[UInt32]()
            .unsafe_load[width=simd_width, alignment=2](0)
        )
        return (
            FloatVector[simd_width](from_bits=bits << 16),
            FloatVector[simd_width](from_bits=bits & 0xFFFF0000),
        )
    else:
        return (
            load[simd_width](values, index),
            load[simd_width](values, index + simd_width),
        )


@always_inline
def deinterleave_row[dtype: DType, simd_width: Int](row: FloatPointer, count: Int):
    """Reorders a query to match the order in which `load_two_vectors` returns keys.

    For bfloat16, it is fastest to split two successive vectors into even and odd
    positions. Values beyond the last two whole vectors keep their order.
    """
    comptime if dtype == DType.bfloat16:
        for i in range(0, count - 2 * simd_width + 1, 2 * simd_width):
            var halves = row.unsafe_load[width=2 * simd_width](i).deinterleave()
            row.unsafe_store(i, halves[0])
            row.unsafe_store(i + simd_width, halves[1])


@always_inline
def interleave_row[dtype: DType, simd_width: Int](row: FloatPointer, count: Int):
    """Undoes `deinterleave_row`."""
    comptime if dtype == DType.bfloat16:
        for i in range(0, count - 2 * simd_width + 1, 2 * simd_width):
            var even = row.unsafe_load[width=simd_width](i)
            var odd = row.unsafe_load[width=simd_width](i + simd_width)
            row.unsafe_store(i, even.interleave(odd))


@always_inline
def max_or_second(a: SIMD[DType.float32, _], b: type_of(a)) -> type_of(a):
    """Returns the larger of two values, or `b` if either is NaN."""
    return a.gt(b).select(a, b)


@always_inline
def exp2[coarse: Bool = False](exponent: SIMD[DType.float32, _]) -> type_of(exponent):
    """Returns 2 to the power of numbers that aren't positive, to 1e-7; NaN stays NaN.

    Powers below the least normal number become that number.

    Parameters:
        coarse: Whether 1e-4 is precise enough, as for results that are rounded to
            bfloat16.

    Args:
        exponent: The numbers.
    """
    comptime T = type_of(exponent)
    # Adding 1.5 * 2^23 rounds to a whole number, which the low bits then hold.
    comptime shift = T(12582912)
    var clamped = exponent.lt(-126).select(T(-126), exponent)
    var shifted = clamped + shift
    var rest = clamped - (shifted - shift)
    # Interpolates 2^rest at Chebyshev's points, |rest| <= 1/2.
    var power: T
    comptime if coarse:
        power = fma(rest, T(5.58382829e-2), T(2.42639479e-1))
        power = fma(rest, power, T(6.93136734e-1))
        power = fma(rest, power, T(9.99924557e-1))
    else:
        power = fma(rest, T(1.54614475e-4), T(1.33908674e-3))
        power = fma(rest, power, T(9.61805667e-3))
        power = fma(rest, power, T(5.5503571e-2))
        power = fma(rest, power, T(2.40226509e-1))
        power = fma(rest, power, T(6.93147188e-1))
        power = fma(rest, power, T(1))
    var whole = shifted.to_bits[DType.uint32]() << 23
    return T(from_bits=power.to_bits[DType.uint32]() + whole)


@always_inline
def transpose_8x8(mut rows: Array[FloatVector[8], 8]):
    """Transposes eight rows of eight values."""
    var pairs = Array[FloatVector[8], 8](uninitialized=True)
    comptime for i in range(4):
        var a = rows[2 * i]
        var b = rows[2 * i + 1]
        pairs[2 * i] = a.shuffle[0, 8, 1, 9, 4, 12, 5, 13](b)
        pairs[2 * i + 1] = a.shuffle[2, 10, 3, 11, 6, 14, 7, 15](b)
    var fours = Array[FloatVector[8], 8](uninitialized=True)
    comptime for i in range(2):
        comptime for j in range(2):
            var a = pairs[4 * i + j]
            var b = pairs[4 * i + 2 + j]
            fours[4 * i + 2 * j] = a.shuffle[0, 1, 8, 9, 4, 5, 12, 13](b)
            fours[4 * i + 2 * j + 1] = a.shuffle[2, 3, 10, 11, 6, 7, 14, 15](b)
    comptime for i in range(4):
        var a = fours[i]
        var b = fours[4 + i]
        rows[i] = a.shuffle[0, 1, 2, 3, 8, 9, 10, 11](b)
        rows[4 + i] = a.shuffle[4, 5, 6, 7, 12, 13, 14, 15](b)


@always_inline
def scale_floats[simd_width: Int](values: FloatPointer, count: Int, factor: Float32):
    """Multiplies values, in whole vectors, by a factor."""
    for i in range(0, count, simd_width):
        values.unsafe_store(i, values.unsafe_load[width=simd_width](i) * factor)


@always_inline
def fill_floats(values: FloatPointer, count: Int, value: Float32):
    """Fills any number of values."""
    for i in range(count):
        values.unsafe_store(i, value)
