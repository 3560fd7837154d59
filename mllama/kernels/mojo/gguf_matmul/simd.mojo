"""Vector operations on sixteen columns of a matrix side by side: int8 dot products,
loads and shuffles.

All columns take `16 // simd_width` vectors: `simd_width` is 8 with the instructions of
AVX2 and 16 with those of AVX-512. VNNI, of either width, adds four products of int8 in
int32.
"""

from std.math import fma
from std.memory import bitcast, unsafe_stack_allocation
from std.sys import size_of
from std.sys.intrinsics import llvm_intrinsic
from std.utils.index import IndexList


@fieldwise_init
struct Simd(Copyable, Equatable, ImplicitlyCopyable, Movable):
    """The form of the vectors, which the CPU's instructions decide."""

    var width: Int
    """Columns of a vector: 8, or 16 with AVX-512."""
    var has_vnni: Bool
    """Whether an instruction (`vpdpbusd`) adds four products of bytes in int32; AVX-512
    is used only with it."""


comptime BytePointer = Pointer[UInt8, MutUntrackedOrigin]
comptime FloatPointer = Pointer[Float32, MutUntrackedOrigin]
comptime Levels[simd_width: Int] = SIMD[DType.uint8, 4 * simd_width]
"""Four successive weights (quantization levels) of each column."""
comptime Values[simd_width: Int] = SIMD[DType.int8, 4 * simd_width]
"""Four successive values of a token, repeated for each column."""
comptime Pairs[simd_width: Int] = SIMD[DType.int16, 2 * simd_width]
"""Two values of each column."""
comptime Products[simd: Simd] = SIMD[
    DType.int32 if simd.has_vnni else DType.int16,
    simd.width if simd.has_vnni else 2 * simd.width,
]
"""Sums of products: one int32 of each column with VNNI, or two int16."""
comptime Sums[simd_width: Int] = SIMD[DType.int32, simd_width]
comptime FloatVector[simd_width: Int] = SIMD[DType.float32, simd_width]
"""One value of each column."""

comptime SUPER_BLOCK = 256
"""Weights of a super-block, the unit in which columns are unpacked."""
comptime COLUMNS = 16
comptime TILE_VECTOR = 4 * COLUMNS
"""Bytes of a tile for four weights, or one value, of all columns."""
comptime RECORD_BYTES = 416
"""Bytes of a record of 256 values of a token, see `quantize.mojo`."""
comptime UNROLL = 4
"""Super-blocks of a column whose sums are added up together; they fill one vector."""


@always_inline
def add_dot_products[
    simd: Simd
](
    products: Products[simd], levels: Levels[simd.width], values: Values[simd.width]
) -> Products[simd]:
    """Adds four products of each column; without VNNI the sums of two must fit int16.
    """
    comptime if not simd.has_vnni:
        return products + llvm_intrinsic[
            "llvm.x86.avx2.pmadd.ub.sw", Products[simd], has_side_effect=False
        ](levels, values)
    elif simd.width == 8:
        return llvm_intrinsic[
            "llvm.x86.avx512.vpdpbusd.256", Products[simd], has_side_effect=False
        ](products, levels, values)
    else:
        return llvm_intrinsic[
            "llvm.x86.avx512.vpdpbusd.512", Products[simd], has_side_effect=False
        ](products, levels, values)


@always_inline
def scale_dot_products[
    simd: Simd
](products: Products[simd], scales: Products[simd]) -> Sums[simd.width]:
    """Multiplies the sums of products of each column with its scale."""
    comptime if simd.has_vnni:
        return rebind[Sums[simd.width]](products * scales)
    else:
        return dot_int16_pairs[simd.width](
            rebind[Pairs[simd.width]](products), rebind[Pairs[simd.width]](scales)
        )


@always_inline
def dot_int16_pairs[
    simd_width: Int
](first: Pairs[simd_width], second: Pairs[simd_width]) -> Sums[simd_width]:
    """Multiplies int16 and adds adjacent products."""
    comptime if simd_width == 8:
        return llvm_intrinsic[
            "llvm.x86.avx2.pmadd.wd", Sums[simd_width], has_side_effect=False
        ](first, second)
    else:
        return llvm_intrinsic[
            "llvm.x86.avx512.pmaddw.d.512", Sums[simd_width], has_side_effect=False
        ](first, second)


@always_inline
def select_scales[
    simd: Simd, byte: Int, signed: Bool
](bytes: Levels[simd.width]) -> Products[simd]:
    """Returns one of the four bytes of each column, widened to the type of its
    products."""
    comptime if simd.has_vnni:
        comptime shift = Sums[simd.width](24 - 8 * byte)
        var high = bitcast[DType.int32, simd.width](bytes) << shift
        comptime if signed:
            return rebind[Products[simd]](high >> 24)
        else:
            return rebind[Products[simd]]((high >> 24) & 255)
    else:
        return rebind[Products[simd]](
            select_pairs[simd.width, byte, byte, signed](bytes)
        )


@always_inline
def select_pairs[
    simd_width: Int, first: Int, second: Int, signed: Bool
](bytes: Levels[simd_width]) -> Pairs[simd_width]:
    """Returns two of the four bytes of each column, as int16."""
    comptime indices = _byte_indices[simd_width](first, second, Int(signed))
    var pairs = bitcast[DType.int16, 2 * simd_width](
        shuffle_bytes[simd_width](bytes, indices)
    )
    # A signed byte is loaded into the high half of its int16, so that the shift extends
    # its sign.
    comptime if signed:
        return pairs >> 8
    else:
        return pairs


def _byte_indices[
    simd_width: Int
](first: Int, second: Int, high: Int) -> Levels[simd_width]:
    """Returns the source of each byte of two int16; 128 stands for zero."""
    var indices = Levels[simd_width](128)
    for lane in range(simd_width):
        # Indices count within sixteen bytes.
        indices[lane * 4 + high] = UInt8(lane % 4 * 4 + first)
        indices[lane * 4 + 2 + high] = UInt8(lane % 4 * 4 + second)
    return indices


@always_inline
def shuffle_bytes[
    simd_width: Int
](bytes: Levels[simd_width], indices: Levels[simd_width]) -> Levels[simd_width]:
    """Shuffles bytes within each sixteen; an index of 128 gives zero."""
    comptime if simd_width == 8:
        return llvm_intrinsic[
            "llvm.x86.avx2.pshuf.b", Levels[simd_width], has_side_effect=False
        ](bytes, indices)
    else:
        return llvm_intrinsic[
            "llvm.x86.avx512.pshuf.b.512", Levels[simd_width], has_side_effect=False
        ](bytes, indices)


@always_inline
def store_vector(address: BytePointer, vector: SIMD[_, _]):
    """Stores a vector at any address."""
    comptime size = vector.length * size_of[vector.dtype]()
    address.unsafe_store(0, bitcast[DType.uint8, size](vector))


@always_inline
def load_vector[dtype: DType, size: Int](address: BytePointer) -> SIMD[dtype, size]:
    """Loads a vector from any address."""
    comptime bytes = size * size_of[dtype]()
    return bitcast[dtype, size](address.unsafe_load[width=bytes](0))


@always_inline
def load_products[simd: Simd](address: BytePointer) -> Products[simd]:
    """Loads a vector of the type of products from a tile."""
    comptime if simd.has_vnni:
        return rebind[Products[simd]](load_vector[DType.int32, simd.width](address))
    else:
        return rebind[Products[simd]](load_vector[DType.int16, 2 * simd.width](address))


@always_inline
def tile_dot_products[
    tokens: Int, quads: Int, simd: Simd
](
    levels: BytePointer, records: BytePointer, starts: Array[Products[simd], tokens]
) -> Array[Products[simd], tokens * (COLUMNS // simd.width)]:
    """Returns the sums of products of some levels of a tile with values of each token.

    Parameters:
        tokens: Number of tokens.
        quads: How many times four weights of each column.
        simd: The form of the vectors.

    Args:
        levels: The first levels.
        records: The first token's first value; tokens are a record apart.
        starts: What the products of each token are added to.
    """
    comptime parts = COLUMNS // simd.width
    var products = Array[Products[simd], tokens * parts](uninitialized=True)
    comptime for index in range(tokens * parts):
        products[index] = starts[index // parts]
    comptime for i in range(quads):
        var weights = Array[Levels[simd.width], parts](uninitialized=True)
        comptime for part in range(parts):
            weights[part] = levels.unsafe_load[width=4 * simd.width](
                i * TILE_VECTOR + part * 4 * simd.width
            )
        comptime for token in range(tokens):
            var values = broadcast_4_bytes[simd.width](
                records.unsafe_offset(token * RECORD_BYTES + i * 4)
            )
            comptime for part in range(parts):
                comptime index = token * parts + part
                products[index] = add_dot_products[simd](
                    products[index], weights[part], values
                )
    return products^


@always_inline
def load_float(address: BytePointer) -> Float32:
    """Loads a float32."""
    return address.unsafe_bitcast[Float32]().unsafe_load(0)


@always_inline
def add_scaled[
    simd_width: Int
](total: FloatPointer, sum: FloatVector[simd_width], scale: Float32):
    """Adds scaled sums to a total in memory."""
    var before = total.unsafe_load[width=simd_width](0)
    total.unsafe_store(0, fma(sum, FloatVector[simd_width](scale), before))


@always_inline
def broadcast_4_bytes[simd_width: Int](address: BytePointer) -> Values[simd_width]:
    """Loads four bytes and repeats them for each column."""
    var four = address.unsafe_bitcast[Int32]().unsafe_load[alignment=1](0)
    return bitcast[DType.int8, 4 * simd_width](Sums[simd_width](four))


@always_inline
def load_transposed[
    simd_width: Int
](column: BytePointer, stride: Int) -> Array[Levels[simd_width], 4]:
    """Loads sixteen bytes of each column; each result has four successive bytes of all
    columns.

    Args:
        column: The first column's bytes.
        stride: Bytes from one column to the next.
    """

    @always_inline
    def sixteen(index: Int) {imm} -> SIMD[DType.uint8, 16]:
        return column.unsafe_offset(index * stride).unsafe_load[width=16, alignment=1](
            0
        )

    @always_inline
    def every_fourth(index: Int) {imm} -> SIMD[DType.uint32, simd_width]:
        var two = sixteen(index).join(sixteen(index + 4))
        comptime if simd_width == 8:
            return bitcast[DType.uint32, simd_width](two)
        else:
            var others = sixteen(index + 8).join(sixteen(index + 12))
            return bitcast[DType.uint32, simd_width](two.join(others))

    var a = every_fourth(0)
    var b = every_fourth(1)
    var c = every_fourth(2)
    var d = every_fourth(3)
    comptime low = interleave_indices[simd_width, 1](0)
    comptime high = interleave_indices[simd_width, 1](2)
    comptime low_pairs = interleave_indices[simd_width, 2](0)
    comptime high_pairs = interleave_indices[simd_width, 2](2)
    var ab_low = a.shuffle[low](b)
    var ab_high = a.shuffle[high](b)
    var cd_low = c.shuffle[low](d)
    var cd_high = c.shuffle[high](d)
    return [
        bitcast[DType.uint8, 4 * simd_width](ab_low.shuffle[low_pairs](cd_low)),
        bitcast[DType.uint8, 4 * simd_width](ab_low.shuffle[high_pairs](cd_low)),
        bitcast[DType.uint8, 4 * simd_width](ab_high.shuffle[low_pairs](cd_high)),
        bitcast[DType.uint8, 4 * simd_width](ab_high.shuffle[high_pairs](cd_high)),
    ]


def interleave_indices[simd_width: Int, run: Int](first: Int) -> IndexList[simd_width]:
    """Returns indices that interleave two vectors, two values of each within every
    four.

    Parameters:
        simd_width: Values of a vector.
        run: How many successive values stay together.

    Args:
        first: The first value of every four that is taken.
    """
    var indices = IndexList[simd_width]()
    for i in range(simd_width):
        var start, position = i // 4 * 4, i % 4
        var second = position // run % 2
        indices[i] = (
            start + first + position // (2 * run) + position % run + second * simd_width
        )
    return indices


@always_inline
def float16_bits_to_float32[
    simd_width: Int
](bits: SIMD[DType.uint32, simd_width]) -> FloatVector[simd_width]:
    """Converts the float16 in the low half of each value."""
    var halves = bitcast[DType.float16, simd_width](bits.cast[DType.uint16]())
    return halves.cast[DType.float32]()


@always_inline
def load_float16[
    simd_width: Int, count: Int = simd_width
](column: BytePointer, stride: Int) -> FloatVector[simd_width]:
    """Loads a float16 of each of `count` columns; the others are zeros."""
    var halves = SIMD[DType.float16, simd_width](0)
    comptime for i in range(count):
        halves[i] = (
            column.unsafe_offset(i * stride)
            .unsafe_bitcast[Float16]()
            .unsafe_load[alignment=1](0)
        )
    return halves.cast[DType.float32]()


@always_inline
def align_frame():
    """Aligns the stack frame of the function that calls this to cache lines.

    LLVM does so for variables that need it, but not for vectors that it spills, which
    then lie across two lines or not as chance has it.
    """
    var variable = unsafe_stack_allocation[1, UInt8, alignment=64]()
    variable.unsafe_store[volatile=True](0, UInt8(0))
