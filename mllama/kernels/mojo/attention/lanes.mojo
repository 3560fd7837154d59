"""Vectors of float32, and what is done to them.

AVX2 has 8 lanes and 16 registers, AVX-512 16 lanes and 32 registers.
"""

from std.math import fma

comptime Floats = Pointer[Float32, MutUntrackedOrigin]
comptime Lanes[count: Int] = SIMD[DType.float32, count]

comptime LOG2_E = Float32(1.4426950408889634)
comptime LOWEST = Float32(-3.0e38)
"""Below every score: where a search for the largest begins."""


@always_inline
def load[
    dtype: DType, //, lanes: Int
](values: Pointer[Scalar[dtype], MutUntrackedOrigin], index: Int) -> Lanes[lanes]:
    """Values of float32 or bfloat16, as float32."""
    comptime if dtype == DType.bfloat16:
        # The upper half of a float32's bits.
        var bits = values.unsafe_bitcast[UInt16]().unsafe_load[
            width=lanes, alignment=2
        ](index)
        return Lanes[lanes](from_bits=bits.cast[DType.uint32]() << 16)
    else:
        return values.unsafe_load[width=lanes, alignment=2](index).cast[
            DType.float32
        ]()


@always_inline
def load_two[
    dtype: DType, //, lanes: Int
](values: Pointer[Scalar[dtype], MutUntrackedOrigin], index: Int) -> Tuple[
    Lanes[lanes], Lanes[lanes]
]:
    """Two vectors of values from an index on, as `cross` orders them."""
    comptime if dtype == DType.bfloat16:
        var bits = values.unsafe_offset(index).unsafe_bitcast[UInt32]().unsafe_load[
            width=lanes, alignment=2
        ](0)
        return (
            Lanes[lanes](from_bits=bits << 16),
            Lanes[lanes](from_bits=bits & 0xFFFF0000),
        )
    else:
        return (load[lanes](values, index), load[lanes](values, index + lanes))


@always_inline
def cross[dtype: DType, lanes: Int](row: Floats, count: Int):
    """Orders a row as `load_two` gives values: two vectors of bfloat16 are taken apart
    fastest by even and odd places.  What is no two vectors stays as it is."""
    comptime if dtype == DType.bfloat16:
        for i in range(0, count - 2 * lanes + 1, 2 * lanes):
            var halves = row.unsafe_load[width=2 * lanes](i).deinterleave()
            row.unsafe_store(i, halves[0])
            row.unsafe_store(i + lanes, halves[1])


@always_inline
def uncross[dtype: DType, lanes: Int](row: Floats, count: Int):
    """Undoes `cross`."""
    comptime if dtype == DType.bfloat16:
        for i in range(0, count - 2 * lanes + 1, 2 * lanes):
            var even = row.unsafe_load[width=lanes](i)
            var odd = row.unsafe_load[width=lanes](i + lanes)
            row.unsafe_store(i, even.interleave(odd))


@always_inline
def larger(a: SIMD[DType.float32, _], b: type_of(a)) -> type_of(a):
    """The larger of two, `b` if one is no number."""
    return a.gt(b).select(a, b)


@always_inline
def power_of_2[
    coarse: Bool = False
](exponent: SIMD[DType.float32, _]) -> type_of(exponent):
    """2 to the power of numbers that aren't positive, to 1e-7; no number stays none.

    Powers below the least normal number become that.

    Parameters:
        coarse: Whether 1e-4 is enough, for what is then rounded to bfloat16.

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
def transpose(mut rows: Array[Lanes[8], 8]):
    """Eight rows of eight to columns."""
    var pairs = Array[Lanes[8], 8](uninitialized=True)
    comptime for i in range(4):
        var a = rows[2 * i]
        var b = rows[2 * i + 1]
        pairs[2 * i] = a.shuffle[0, 8, 1, 9, 4, 12, 5, 13](b)
        pairs[2 * i + 1] = a.shuffle[2, 10, 3, 11, 6, 14, 7, 15](b)
    var fours = Array[Lanes[8], 8](uninitialized=True)
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
def scale_row[lanes: Int](values: Floats, count: Int, factor: Float32):
    """Multiplies a row, of whole vectors, by a factor."""
    for i in range(0, count, lanes):
        values.unsafe_store(i, values.unsafe_load[width=lanes](i) * factor)


@always_inline
def fill_row(values: Floats, count: Int, value: Float32):
    """Fills a row of any length."""
    for i in range(count):
        values.unsafe_store(i, value)
