"""Dot products of int8: four successive values of a token with those of many columns.
"""

from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic

comptime BytePointer = Pointer[Int8, MutUntrackedOrigin]
comptime FloatPointer = Pointer[Float32, MutUntrackedOrigin]

comptime COLUMNS = 16
"""Columns of a tile, in which four successive weights of each column lie side by side.
"""
comptime QUAD = 4 * COLUMNS
"""Bytes of a tile for four successive weights of all columns."""

comptime _Wide = SIMD[DType.int32, 16]
comptime _Narrow = SIMD[DType.int8, 32]
comptime _Pairs = SIMD[DType.int16, 16]
comptime _Sums = SIMD[DType.int32, 8]


@always_inline
def load_4_bytes(address: BytePointer) -> Int32:
    """Loads four values of a token."""
    return address.unsafe_bitcast[Int32]().unsafe_load[alignment=4](0)


@always_inline
def add_dot_products[
    simd_width: Int
](
    sums: SIMD[DType.int32, simd_width],
    four: Int32,
    columns: SIMD[DType.int8, 4 * simd_width],
) -> SIMD[DType.int32, simd_width]:
    """Adds the products of four values of a token with those of each column.

    With AVX-512, 128 has been added to the token's values, which are read as unsigned.
    """
    comptime if simd_width == 16:
        return rebind[SIMD[DType.int32, simd_width]](
            llvm_intrinsic[
                "llvm.x86.avx512.vpdpbusd.512", _Wide, has_side_effect=False
            ](
                rebind[_Wide](sums),
                bitcast[DType.uint8, 64](_Wide(four)),
                rebind[SIMD[DType.int8, 64]](columns),
            )
        )
    else:
        # AVX2 multiplies only unsigned bytes with signed ones, so signs move to the
        # columns; the sum of two products of 127 fits int16.
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
        return sums + rebind[SIMD[DType.int32, simd_width]](products)
