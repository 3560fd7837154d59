"""Byte products, and sixteen columns of a matrix side by side in vectors.

There are `16 // lanes` vectors for all columns: `lanes` is 8 with AVX2's instructions and
16 with those of AVX-512, of which VNNI's sum four byte products as int32.
"""

from std.math import fma
from std.memory import bitcast
from std.sys import size_of
from std.sys.intrinsics import llvm_intrinsic
from std.utils.index import IndexList

comptime Bytes = Pointer[UInt8, MutUntrackedOrigin]
comptime Floats = Pointer[Float32, MutUntrackedOrigin]
comptime Levels[lanes: Int] = SIMD[DType.uint8, 4 * lanes]
"""Four successive weights of each column."""
comptime Values[lanes: Int] = SIMD[DType.int8, 4 * lanes]
"""Four successive values of a row, for each column."""
comptime Pairs[lanes: Int] = SIMD[DType.int16, 2 * lanes]
"""Two values of each column."""
comptime Products[lanes: Int] = SIMD[DType.int16 if lanes == 8 else DType.int32, 16]
"""Sums of byte products: two of each of eight columns, or one of each of sixteen."""
comptime Sums[lanes: Int] = SIMD[DType.int32, lanes]
comptime Lanes[lanes: Int] = SIMD[DType.float32, lanes]
"""One value of each column."""

comptime SPAN = 256
"""Weights of a column that are unpacked at a time."""
comptime QUADS = SPAN // 4
comptime COLUMNS = 16
comptime VECTOR = 4 * COLUMNS
"""Bytes of a tile for four weights, or one value, of all columns."""
comptime RECORD = 352
"""Bytes for 256 values of a row, see `activations.mojo`."""
comptime SPANS = 4
"""Spans of one column that are read together, whose sums are the lanes of one vector."""


@always_inline
def with_products[
    lanes: Int
](products: Products[lanes], levels: Levels[lanes], values: Values[lanes]) -> Products[
    lanes
]:
    """Adds four products of each column; sums of two must fit int16 with eight lanes."""
    comptime if lanes == 8:
        return products + llvm_intrinsic[
            "llvm.x86.avx2.pmadd.ub.sw", Products[lanes], has_side_effect=False
        ](levels, values)
    else:
        return llvm_intrinsic[
            "llvm.x86.avx512.vpdpbusd.512", Products[lanes], has_side_effect=False
        ](products, levels, values)


@always_inline
def scaled_sums[
    lanes: Int
](products: Products[lanes], scales: Products[lanes]) -> Sums[lanes]:
    """Sums of each column's products, times its scale."""
    comptime if lanes == 8:
        return pair_sums[lanes](
            rebind[Pairs[lanes]](products), rebind[Pairs[lanes]](scales)
        )
    else:
        return rebind[Sums[lanes]](products * scales)


@always_inline
def pair_sums[lanes: Int](first: Pairs[lanes], second: Pairs[lanes]) -> Sums[lanes]:
    """Sums of two adjacent products."""
    comptime if lanes == 8:
        return llvm_intrinsic[
            "llvm.x86.avx2.pmadd.wd", Sums[lanes], has_side_effect=False
        ](first, second)
    else:
        return llvm_intrinsic[
            "llvm.x86.avx512.pmaddw.d.512", Sums[lanes], has_side_effect=False
        ](first, second)


@always_inline
def scales_at[
    lanes: Int, place: Int, signed: Bool
](bytes: Levels[lanes]) -> Products[lanes]:
    """One of the four bytes of each column, for all its products."""
    comptime if lanes == 8:
        return rebind[Products[lanes]](pairs_at[lanes, place, place, signed](bytes))
    else:
        comptime shift = SIMD[DType.int32, 16](24 - 8 * place)
        var high = bitcast[DType.int32, 16](bytes) << shift
        comptime if signed:
            return rebind[Products[lanes]](high >> 24)
        else:
            return rebind[Products[lanes]]((high >> 24) & 255)


@always_inline
def pairs_at[
    lanes: Int, first: Int, second: Int, signed: Bool
](bytes: Levels[lanes]) -> Pairs[lanes]:
    """Two of the four bytes of each column."""
    comptime places = _places[lanes](first, second, Int(signed))
    var pairs = bitcast[DType.int16, 2 * lanes](picked[lanes](bytes, places))
    # A signed byte is the high half of its int16 first, so that its sign spreads.
    comptime if signed:
        return pairs >> 8
    else:
        return pairs


def _places[lanes: Int](first: Int, second: Int, high: Int) -> Levels[lanes]:
    """Where each byte of two int16 comes from; 128 stands for zero."""
    var places = Levels[lanes](128)
    for lane in range(lanes):
        # They count within sixteen bytes.
        places[lane * 4 + high] = UInt8(lane % 4 * 4 + first)
        places[lane * 4 + 2 + high] = UInt8(lane % 4 * 4 + second)
    return places


@always_inline
def picked[
    lanes: Int
](bytes: Levels[lanes], places: Levels[lanes]) -> Levels[lanes]:
    """Bytes of each sixteen by their places among them; 128 stands for zero."""
    comptime if lanes == 8:
        return llvm_intrinsic[
            "llvm.x86.avx2.pshuf.b", Levels[lanes], has_side_effect=False
        ](bytes, places)
    else:
        return llvm_intrinsic[
            "llvm.x86.avx512.pshuf.b.512", Levels[lanes], has_side_effect=False
        ](bytes, places)


@always_inline
def keep(place: Bytes, vector: SIMD[_, _]):
    """Writes a vector into a tile."""
    comptime size = vector.length * size_of[vector.dtype]()
    place.unsafe_store(0, bitcast[DType.uint8, size](vector))


@always_inline
def kept[dtype: DType, size: Int](place: Bytes) -> SIMD[dtype, size]:
    """Reads a vector from a tile."""
    comptime bytes = size * size_of[dtype]()
    return bitcast[dtype, size](place.unsafe_load[width=bytes](0))


@always_inline
def tile_products[
    rows: Int, quads: Int, lanes: Int
](levels: Bytes, records: Bytes) -> Array[Products[lanes], rows * (COLUMNS // lanes)]:
    """Sums of products of some levels of a tile with values of some rows.

    Parameters:
        rows: How many rows.
        quads: How many times four weights of each column.
        lanes: Columns of a vector.

    Args:
        levels: The first.
        records: The first row's first value; rows are a record apart.
    """
    comptime parts = COLUMNS // lanes
    var products = Array[Products[lanes], rows * parts](fill=Products[lanes](0))
    comptime for i in range(quads):
        var some = Array[Levels[lanes], parts](uninitialized=True)
        comptime for part in range(parts):
            some[part] = levels.unsafe_load[width=4 * lanes](
                i * VECTOR + part * 4 * lanes
            )
        comptime for row in range(rows):
            var four = four_bytes[lanes](records.unsafe_offset(row * RECORD + i * 4))
            comptime for part in range(parts):
                comptime at = row * parts + part
                products[at] = with_products[lanes](products[at], some[part], four)
    return products^


@always_inline
def float_at(place: Bytes) -> Float32:
    """The float32 at a place."""
    return place.unsafe_bitcast[Float32]().unsafe_load(0)


@always_inline
def add_to[lanes: Int](total: Floats, sum: Lanes[lanes], scale: Float32):
    """Adds scaled sums to what is there."""
    var before = total.unsafe_load[width=lanes](0)
    total.unsafe_store(0, fma(sum, Lanes[lanes](scale), before))


@always_inline
def four_bytes[lanes: Int](place: Bytes) -> Values[lanes]:
    """Four bytes, for each column."""
    var four = place.unsafe_bitcast[Int32]().unsafe_load[alignment=1](0)
    return bitcast[DType.int8, 4 * lanes](Sums[lanes](four))


@always_inline
def transposed[lanes: Int](column: Bytes, stride: Int) -> Array[Levels[lanes], 4]:
    """Sixteen bytes of each column, four bytes of all in a vector.

    Args:
        column: Where those of the first column are.
        stride: Bytes from a column to the next.
    """

    @always_inline
    def sixteen(row: Int) {imm} -> SIMD[DType.uint8, 16]:
        return column.unsafe_offset(row * stride).unsafe_load[width=16, alignment=1](0)

    @always_inline
    def every_fourth(row: Int) {imm} -> SIMD[DType.uint32, lanes]:
        var two = sixteen(row).join(sixteen(row + 4))
        comptime if lanes == 8:
            return bitcast[DType.uint32, lanes](two)
        else:
            var others = sixteen(row + 8).join(sixteen(row + 12))
            return bitcast[DType.uint32, lanes](two.join(others))

    var a = every_fourth(0)
    var b = every_fourth(1)
    var c = every_fourth(2)
    var d = every_fourth(3)
    comptime low = interleaving[lanes, 1](0)
    comptime high = interleaving[lanes, 1](2)
    comptime low_pairs = interleaving[lanes, 2](0)
    comptime high_pairs = interleaving[lanes, 2](2)
    var ab_low = a.shuffle[low](b)
    var ab_high = a.shuffle[high](b)
    var cd_low = c.shuffle[low](d)
    var cd_high = c.shuffle[high](d)
    return [
        bitcast[DType.uint8, 4 * lanes](ab_low.shuffle[low_pairs](cd_low)),
        bitcast[DType.uint8, 4 * lanes](ab_low.shuffle[high_pairs](cd_low)),
        bitcast[DType.uint8, 4 * lanes](ab_high.shuffle[low_pairs](cd_high)),
        bitcast[DType.uint8, 4 * lanes](ab_high.shuffle[high_pairs](cd_high)),
    ]


def interleaving[lanes: Int, run: Int](first: Int) -> IndexList[lanes]:
    """Runs of two vectors in turn, two values of either within each four lanes.

    Parameters:
        lanes: Values of a vector.
        run: How many values follow each other.

    Args:
        first: The first of the four lanes that is taken.
    """
    var places = IndexList[lanes]()
    for i in range(lanes):
        var four, place = i // 4 * 4, i % 4
        var second = place // run % 2
        places[i] = four + first + place // (2 * run) + place % run + second * lanes
    return places


@always_inline
def halves_as_floats[
    lanes: Int
](bits: SIMD[DType.uint32, lanes]) -> Lanes[lanes]:
    """The float16 in the low half of each lane."""
    var halves = bitcast[DType.float16, lanes](bits.cast[DType.uint16]())
    return halves.cast[DType.float32]()


@always_inline
def half_floats[
    lanes: Int, count: Int = lanes
](column: Bytes, stride: Int) -> Lanes[lanes]:
    """A float16 of each column, of `count` of them; the others' are zeros."""
    var halves = SIMD[DType.float16, lanes](0)
    comptime for i in range(count):
        halves[i] = (
            column.unsafe_offset(i * stride)
            .unsafe_bitcast[Float16]()
            .unsafe_load[alignment=1](0)
        )
    return halves.cast[DType.float32]()
