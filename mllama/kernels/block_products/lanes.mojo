"""Byte products of AVX2, and sixteen columns of a matrix side by side in vectors."""

from std.math import ceildiv, fma
from std.memory import bitcast
from std.sys.intrinsics import PrefetchOptions, llvm_intrinsic, prefetch

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
comptime VECTOR = 32 * HALVES
"""Bytes of a tile for one vector of all columns."""
comptime RECORD = 352
"""Bytes for 256 values of a row, see `activations.mojo`."""


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
def spread[first: Int, second: Int, high: Int](bytes: Levels) -> Products:
    """Two of the four bytes of each column, each in a lane of its own.

    Parameters:
        first: Which byte comes first.
        second: Which byte comes second.
        high: Whether a byte is the high (1) or the low (0) half of its lane.

    Args:
        bytes: Four of each column.
    """
    comptime places = _places(first, second, high)
    return bitcast[DType.int16, 16](
        llvm_intrinsic["llvm.x86.avx2.pshuf.b", Levels, has_side_effect=False](
            bytes, places
        )
    )


def _places(first: Int, second: Int, high: Int) -> Levels:
    """Where each byte of `spread` comes from; 128 stands for zero."""
    var places = Levels(128)
    for lane in range(8):
        # They count within sixteen bytes.
        places[lane * 4 + high] = UInt8(lane % 4 * 4 + first)
        places[lane * 4 + 2 + high] = UInt8(lane % 4 * 4 + second)
    return places


@always_inline
def keep(place: Bytes, vector: SIMD[_, _]):
    """Writes a vector of 32 bytes into a tile."""
    place.unsafe_store(0, bitcast[DType.uint8, 32](vector))


@always_inline
def kept[dtype: DType, size: Int](place: Bytes) -> SIMD[dtype, size]:
    """Reads a vector of 32 bytes from a tile."""
    return bitcast[dtype, size](place.unsafe_load[width=32](0))


@always_inline
def tile_products[
    rows: Int, quads: Int
](levels: Bytes, records: Bytes) -> Array[Products, rows * HALVES]:
    """Sums of products of some levels of a tile with values of some rows.

    Parameters:
        rows: How many rows.
        quads: How many times four weights of each column.

    Args:
        levels: The first.
        records: The first row's first value; rows are a record apart.
    """
    var products = Array[Products, rows * HALVES](fill=Products(0))
    comptime for i in range(quads):
        var first = levels.unsafe_load[width=32](i * VECTOR)
        var second = levels.unsafe_load[width=32](i * VECTOR + 32)
        comptime for row in range(rows):
            var four = four_bytes(records.unsafe_offset(row * RECORD + i * 4))
            products[2 * row] += byte_products(first, four)
            products[2 * row + 1] += byte_products(second, four)
    return products^


@always_inline
def fetch[size: Int](place: Bytes):
    """Begins to read some bytes into the cache."""
    comptime options = PrefetchOptions().for_read().high_locality().to_data_cache()
    comptime for line in range(ceildiv(size, 64)):
        prefetch[options](place.unsafe_offset(line * 64))


@always_inline
def float_at(place: Bytes) -> Float32:
    """The float32 at a place."""
    return place.unsafe_bitcast[Float32]().unsafe_load(0)


@always_inline
def add_to(total: Floats, sum: Lanes, scale: Float32):
    """Adds eight scaled sums to what is there."""
    total.unsafe_store(0, fma(sum, Lanes(scale), total.unsafe_load[width=8](0)))


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


@always_inline
def half_floats(column: Bytes, stride: Int) -> Lanes:
    """A float16 of each of eight columns."""
    var halves = SIMD[DType.float16, 8](0)
    comptime for i in range(8):
        halves[i] = column.unsafe_offset(i * stride).unsafe_bitcast[
            Float16
        ]().unsafe_load[alignment=1](0)
    return halves.cast[DType.float32]()
