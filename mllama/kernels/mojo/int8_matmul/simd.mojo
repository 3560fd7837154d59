"""Dot products of int8: successive values of a token with those of many columns.

Every form multiplies unsigned bytes with signed ones, so 128 has been added to a
token's values.
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

comptime _Bytes[width: Int] = SIMD[DType.uint8, 4 * width]
comptime _Pairs = SIMD[DType.int16, 16]


@fieldwise_init
struct Simd(Copyable, Equatable, ImplicitlyCopyable, Movable):
    """The form of the vectors, which the CPU's instructions decide."""

    var width: Int
    """Columns of a vector: 8, or 16 with AVX-512."""
    var has_vnni: Bool
    """Whether an instruction (`vpdpbusd`) adds four products of bytes in int32; AVX-512
    is used only with it."""

    def quads(self) -> Int:
        """Returns how many times four successive weights of a column are multiplied at
        once."""
        return 1 if self.has_vnni else 2


comptime Weights[simd: Simd] = SIMD[DType.int8, 4 * simd.width]
"""Four successive weights of each column of a vector."""
comptime Sums[simd: Simd] = SIMD[DType.int32, simd.width]


@always_inline
def load_4_bytes(address: BytePointer) -> Int32:
    """Loads four values of a token."""
    return address.unsafe_bitcast[Int32]().unsafe_load[alignment=4](0)


@always_inline
def add_dot_products[
    simd: Simd
](
    sums: Sums[simd],
    values: Array[Int32, simd.quads()],
    columns: Array[Weights[simd], simd.quads()],
) -> Sums[simd]:
    """Adds the products of a token's values with those of each column.

    Without VNNI four products are added in int16, so the weights must be as those of
    `bound_weights`.
    """
    comptime if simd.width == 16:
        return llvm_intrinsic[
            "llvm.x86.avx512.vpdpbusd.512", Sums[simd], has_side_effect=False
        ](sums, _spread[simd.width](values[0]), columns[0])
    elif simd.has_vnni:
        return llvm_intrinsic[
            "llvm.x86.avx512.vpdpbusd.256", Sums[simd], has_side_effect=False
        ](sums, _spread[simd.width](values[0]), columns[0])
    else:
        var pairs = _Pairs(0)
        comptime for quad in range(simd.quads()):
            pairs += llvm_intrinsic[
                "llvm.x86.avx2.pmadd.ub.sw", _Pairs, has_side_effect=False
            ](_spread[simd.width](values[quad]), columns[quad])
        return sums + llvm_intrinsic[
            "llvm.x86.avx2.pmadd.wd", Sums[simd], has_side_effect=False
        ](pairs, _Pairs(1))


@always_inline
def _spread[width: Int](four: Int32) -> _Bytes[width]:
    """Repeats four values for each column."""
    return bitcast[DType.uint8, 4 * width](SIMD[DType.int32, width](four))
