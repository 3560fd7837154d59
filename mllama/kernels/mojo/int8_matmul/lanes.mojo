"""Products of bytes: four successive values of a row with those of many columns."""

from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic

comptime Bytes = Pointer[Int8, MutUntrackedOrigin]
comptime Floats = Pointer[Float32, MutUntrackedOrigin]

comptime COLUMNS = 16
"""Columns of a tile, in which four successive bytes of each lie side by side."""
comptime QUAD = 4 * COLUMNS
"""Bytes of a tile for four successive values of a row."""

comptime _Wide = SIMD[DType.int32, 16]
comptime _Narrow = SIMD[DType.int8, 32]
comptime _Pairs = SIMD[DType.int16, 16]
comptime _Sums = SIMD[DType.int32, 8]


@always_inline
def four_bytes(place: Bytes) -> Int32:
    """Four bytes of a row."""
    return place.unsafe_bitcast[Int32]().unsafe_load[alignment=4](0)


@always_inline
def add_products[
    lanes: Int
](
    sums: SIMD[DType.int32, lanes], four: Int32, columns: SIMD[DType.int8, 4 * lanes]
) -> SIMD[DType.int32, lanes]:
    """Adds products of four bytes of a row with those of each column.

    With 16 lanes the row's bytes are 128 too large, and are taken as unsigned.
    """
    comptime if lanes == 16:
        return rebind[SIMD[DType.int32, lanes]](
            llvm_intrinsic[
                "llvm.x86.avx512.vpdpbusd.512", _Wide, has_side_effect=False
            ](
                rebind[_Wide](sums),
                bitcast[DType.uint8, 64](_Wide(four)),
                rebind[SIMD[DType.int8, 64]](columns),
            )
        )
    else:
        # The sign goes to the columns: unsigned bytes times signed ones are all that
        # AVX2 has, and two products of 127 fit int16.
        var values = bitcast[DType.int8, 32](_Sums(four))
        var signed = llvm_intrinsic[
            "llvm.x86.avx2.psign.b", _Narrow, has_side_effect=False
        ](rebind[_Narrow](columns), values)
        var pairs = llvm_intrinsic[
            "llvm.x86.avx2.pmadd.ub.sw", _Pairs, has_side_effect=False
        ](abs(values), signed)
        var products = llvm_intrinsic[
            "llvm.x86.avx2.pmadd.wd", _Sums, has_side_effect=False
        ](pairs, _Pairs(1))
        return sums + rebind[SIMD[DType.int32, lanes]](products)
