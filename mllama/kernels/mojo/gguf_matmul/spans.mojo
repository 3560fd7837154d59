"""Spans of one column: four of them, one after the other in memory, at a time.

Lanes of a vector hold successive weights of a column, those of a sum the four spans.
"""

from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic
from std.utils.index import IndexList

from .lanes import (
    SPANS,
    Bytes,
    Levels,
    Pairs,
    Sums,
    Values,
    interleaving,
    pair_sums,
    picked,
)

comptime OfSpans[dtype: DType] = SIMD[dtype, SPANS]
"""A value of each span."""
comptime Sixteen = SIMD[DType.uint8, 16]
comptime Heads = SIMD[DType.uint32, 4 * SPANS]
"""Sixteen bytes of each span."""
comptime _LAST_WORDS = IndexList[4 * SPANS](
    3, 3, 3, 3, 7, 7, 7, 7, 11, 11, 11, 11, 15, 15, 15, 15
)


@always_inline
def sixteen_of[count: Int](first: Bytes, size: Int) -> Heads:
    """Sixteen bytes of each span.

    Parameters:
        count: How many spans there are; the others' are zeros.

    Args:
        first: Where the first span's are.
        size: Bytes from a span to the next.
    """

    @always_inline
    def those_of(span: Int) {imm} -> Sixteen:
        if span >= count:
            return 0
        return first.unsafe_offset(span * size).unsafe_load[width=16, alignment=1](0)

    var lower = those_of(0).join(those_of(1))
    var upper = those_of(2).join(those_of(3))
    return bitcast[DType.uint32, 4 * SPANS](lower.join(upper))


@always_inline
def first_words(heads: Heads) -> OfSpans[DType.uint32]:
    """The first word of each span."""
    return heads.deinterleave()[0].deinterleave()[0]


@always_inline
def last_words(heads: Heads) -> Heads:
    """The last word of each span, four times."""
    return heads.shuffle[_LAST_WORDS]()


@always_inline
def low_sums[
    lanes: Int
](sums: Bytes, minima: SIMD[DType.uint8, 8 * SPANS]) -> Sums[lanes]:
    """Products of int16 with minima, two of each span and then the next two, summed in
    every fourth lane."""
    comptime count = 8 * SPANS
    var some = sums.unsafe_bitcast[Int16]().unsafe_load[width=count](0)
    var others = minima.cast[DType.int16]()
    comptime if lanes == 8:
        var lower = pair_sums[8](some.slice[16](), others.slice[16]())
        var upper = pair_sums[8](
            some.slice[16, offset=16](), others.slice[16, offset=16]()
        )
        return rebind[Sums[lanes]](lower + upper)
    else:
        return rebind[Sums[lanes]](
            pair_sums[16](rebind[Pairs[16]](some), rebind[Pairs[16]](others))
        )


@always_inline
def repeated[lanes: Int, span: Int](heads: Heads) -> Levels[lanes]:
    """The sixteen bytes of a span, as often as a vector holds them."""
    var bytes = heads.slice[4, offset=4 * span]()
    var two = bytes.join(bytes)
    comptime if lanes == 8:
        return bitcast[DType.uint8, 4 * lanes](two)
    else:
        return bitcast[DType.uint8, 4 * lanes](two.join(two))


@always_inline
def scales_of[
    lanes: Int, first: Int, run: Int, step: Int
](bytes: Levels[lanes]) -> Pairs[lanes]:
    """Scales of successive weights, one for each pair of them.

    Parameters:
        lanes: A quarter of the number of weights.
        first: The first weight's scale among sixteen.
        run: How many weights share one.
        step: From the scale of a run to that of the next.

    Args:
        bytes: The scales, repeated.
    """
    comptime places = _scale_places[lanes](first, run, step)
    return bitcast[DType.int16, 2 * lanes](picked[lanes](bytes, places))


def _scale_places[lanes: Int](first: Int, run: Int, step: Int) -> Levels[lanes]:
    """Where each byte of the scales comes from; 128 stands for zero."""
    var places = Levels[lanes](128)
    for pair in range(2 * lanes):
        places[2 * pair] = UInt8(first + 2 * pair // run * step)
    return places


@always_inline
def pair_products[
    lanes: Int
](levels: Levels[lanes], values: Values[lanes]) -> Pairs[lanes]:
    """Sums of two adjacent products, which must fit int16."""
    comptime if lanes == 8:
        return llvm_intrinsic[
            "llvm.x86.avx2.pmadd.ub.sw", Pairs[lanes], has_side_effect=False
        ](levels, values)
    else:
        return llvm_intrinsic[
            "llvm.x86.avx512.pmaddubs.w.512", Pairs[lanes], has_side_effect=False
        ](levels, values)


@always_inline
def levels_at[lanes: Int](place: Bytes) -> Levels[lanes]:
    """Successive bytes."""
    return place.unsafe_load[width=4 * lanes, alignment=1](0)


@always_inline
def values_at[lanes: Int](place: Bytes) -> Values[lanes]:
    """Successive values of a row."""
    return bitcast[DType.int8, 4 * lanes](levels_at[lanes](place))


@always_inline
def twice[lanes: Int](place: Bytes) -> Levels[lanes]:
    """Thirty-two bytes, twice if a vector holds them twice."""
    var bytes = place.unsafe_load[width=32, alignment=1](0)
    comptime if lanes == 8:
        return rebind[Levels[lanes]](bytes)
    else:
        return rebind[Levels[lanes]](bytes.join(bytes))


@always_inline
def shifted[
    lanes: Int, run: Int, even: Int, odd: Int
](bytes: Levels[lanes]) -> Levels[lanes]:
    """Bytes shifted to the right, to the left where the parameter is negative.

    Bits cross from a byte to its neighbor: those that are not wanted are to be masked.

    Parameters:
        lanes: Of a vector.
        run: How many bytes are shifted alike.
        even: How far those of the first run are, and of every second from there.
        odd: How far the others are, in the same direction.

    Args:
        bytes: What is shifted.
    """
    comptime distances = _distances[lanes](run, abs(even), abs(odd))
    var words = bitcast[DType.uint32, lanes](bytes)
    comptime if even < 0 or odd < 0:
        return bitcast[DType.uint8, 4 * lanes](words << distances)
    else:
        return bitcast[DType.uint8, 4 * lanes](words >> distances)


def _distances[lanes: Int](run: Int, even: Int, odd: Int) -> SIMD[DType.uint32, lanes]:
    var distances = SIMD[DType.uint32, lanes](0)
    for word in range(lanes):
        distances[word] = UInt32(odd if 4 * word // run % 2 else even)
    return distances


@always_inline
def totals[lanes: Int](sums: Array[Sums[lanes], SPANS]) -> OfSpans[DType.int32]:
    """The sum of all lanes of each span's."""
    return both_totals[lanes](sums, Sums[lanes](0)).slice[SPANS]()


@always_inline
def both_totals[
    lanes: Int
](sums: Array[Sums[lanes], SPANS], others: Sums[lanes]) -> SIMD[DType.int32, 2 * SPANS]:
    """The sum of all lanes of each span's, then those of every fourth lane of others."""
    comptime low = interleaving[lanes, 1](0)
    comptime high = interleaving[lanes, 1](2)
    comptime low_pairs = interleaving[lanes, 2](0)
    comptime high_pairs = interleaving[lanes, 2](2)
    var lower = sums[0].shuffle[low](sums[1]) + sums[0].shuffle[high](sums[1])
    var upper = sums[2].shuffle[low](sums[3]) + sums[2].shuffle[high](sums[3])
    # One sum of each span, then another of each.
    var mixed = lower.shuffle[low_pairs](upper) + lower.shuffle[high_pairs](upper)
    return _folded[lanes](mixed, others)


@always_inline
def _folded[
    lanes: Int
](sums: Sums[lanes], others: Sums[lanes]) -> SIMD[DType.int32, 2 * SPANS]:
    """The sums of every fourth lane from each of the first four, of both."""
    comptime half = lanes // 2
    comptime lower = _halves[lanes](0)
    comptime upper = _halves[lanes](half)
    var both = sums.shuffle[lower](others) + sums.shuffle[upper](others)
    comptime if lanes == 2 * SPANS:
        return rebind[SIMD[DType.int32, 2 * SPANS]](both)
    else:
        return _folded[half](
            rebind[Sums[half]](both.slice[half]()),
            rebind[Sums[half]](both.slice[half, offset=half]()),
        )


def _halves[lanes: Int](first: Int) -> IndexList[lanes]:
    """Half of the lanes of a vector from one on, then the same ones of another."""
    var places = IndexList[lanes]()
    for i in range(lanes):
        places[i] = first + i % (lanes // 2) + i // (lanes // 2) * lanes
    return places
