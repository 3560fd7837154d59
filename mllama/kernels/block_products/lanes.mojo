"""Byte products of AVX2, and sixteen columns of a matrix side by side in vectors."""

from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic

comptime Bytes = Pointer[UInt8, MutUntrackedOrigin]
comptime Floats = Pointer[Float32, MutUntrackedOrigin]
comptime Levels = SIMD[DType.uint8, 32]
"""Four successive weights of each of eight columns."""
comptime Products = SIMD[DType.int16, 16]
comptime Sums = SIMD[DType.int32, 8]
comptime Lanes = SIMD[DType.float32, 8]
"""One value of each of eight columns."""

comptime SPAN = 256
"""Weights of a column that are unpacked at a time."""
comptime QUADS = SPAN // 4
comptime HALVES = 2
"""Vectors of eight columns in a tile."""
comptime COLUMNS = 8 * HALVES


@always_inline
def byte_products(levels: Levels, values: SIMD[DType.int8, 32]) -> Products:
    """Sums of two adjacent products; they must fit int16, or they saturate."""
    return llvm_intrinsic[
        "llvm.x86.avx2.pmadd.ub.sw", Products, has_side_effect=False
    ](levels, values)


@always_inline
def pair_sums(first: Products, second: Products) -> Sums:
    """Sums of two adjacent products."""
    return llvm_intrinsic["llvm.x86.avx2.pmadd.wd", Sums, has_side_effect=False](
        first, second
    )


@always_inline
def four_bytes(place: Bytes) -> SIMD[DType.int8, 32]:
    """Four bytes, in each of eight lanes."""
    var four = place.unsafe_bitcast[Int32]().unsafe_load[alignment=1](0)
    return bitcast[DType.int8, 32](Sums(four))


@always_inline
def transposed(column: Bytes, stride: Int) -> Array[Levels, 4]:
    """Sixteen bytes of each of eight columns, four bytes of all in a vector.

    Args:
        column: Where those of the first column are.
        stride: Bytes from a column to the next.
    """

    @always_inline
    def both(row: Int) {imm} -> SIMD[DType.uint32, 8]:
        var near = column.unsafe_offset(row * stride).unsafe_load[
            width=16, alignment=1
        ](0)
        var far = column.unsafe_offset((row + 4) * stride).unsafe_load[
            width=16, alignment=1
        ](0)
        return bitcast[DType.uint32, 8](near.join(far))

    var a = both(0)
    var b = both(1)
    var c = both(2)
    var d = both(3)
    var ab_low = a.shuffle[0, 8, 1, 9, 4, 12, 5, 13](b)
    var ab_high = a.shuffle[2, 10, 3, 11, 6, 14, 7, 15](b)
    var cd_low = c.shuffle[0, 8, 1, 9, 4, 12, 5, 13](d)
    var cd_high = c.shuffle[2, 10, 3, 11, 6, 14, 7, 15](d)
    return [
        bitcast[DType.uint8, 32](ab_low.shuffle[0, 1, 8, 9, 4, 5, 12, 13](cd_low)),
        bitcast[DType.uint8, 32](
            ab_low.shuffle[2, 3, 10, 11, 6, 7, 14, 15](cd_low)
        ),
        bitcast[DType.uint8, 32](
            ab_high.shuffle[0, 1, 8, 9, 4, 5, 12, 13](cd_high)
        ),
        bitcast[DType.uint8, 32](
            ab_high.shuffle[2, 3, 10, 11, 6, 7, 14, 15](cd_high)
        ),
    ]


@always_inline
def halves_as_floats(bits: SIMD[DType.uint32, 8]) -> Lanes:
    """The float16 in the low half of each lane."""
    return bitcast[DType.float16, 8](bits.cast[DType.uint16]()).cast[DType.float32]()
