"""Scores, weights and sums of a block of keys for four queries, a head at a time."""

from std.math import ceildiv, fma
from std.sys import CompilationTarget, size_of
from std.sys.intrinsics import PrefetchOptions, prefetch

from .lanes import (
    Floats,
    LOWEST,
    Lanes,
    larger,
    load,
    load_two,
    power_of_2,
    scale_row,
)

comptime _READ = PrefetchOptions().for_read().to_data_cache()
comptime _SOON = _READ.high_locality() if CompilationTarget._arch() == "znver5" else (
    _READ.medium_locality()
)
"""Into the second cache, for which a core awaits more lines at once than for its first:
1.7 times as fast in Zen 4.  Of Zen 5 see `block_products/fetching.mojo`."""
comptime TOGETHER[lanes: Int] = lanes // 4
"""Keys whose scores with four queries fill a vector."""


@always_inline
def scores[
    dtype: DType, head_dim: Int, lanes: Int
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    width: Int,
    last: Int,
    query: Floats,
) -> Lanes[lanes]:
    """Products of the next keys with four queries, `[keys, 4]`.

    Args:
        keys: The first key.
        width: Values from one to the next.
        last: The index of the last one, which stands for those beyond it.
        query: `[4, head dim]`, crossed.
    """
    comptime together = TOGETHER[lanes]
    var sums = Array[Lanes[lanes], lanes](fill=Lanes[lanes](0))
    var key = Array[Lanes[lanes], 2 * together](uninitialized=True)
    var places = Array[Int, together](uninitialized=True)
    comptime for k in range(together):
        places[k] = min(k, last) * width
    comptime whole = head_dim // (2 * lanes) * 2 * lanes
    for i in range(0, whole, 2 * lanes):
        comptime for k in range(together):
            var two = load_two[lanes](keys, places[k] + i)
            key[2 * k] = two[0]
            key[2 * k + 1] = two[1]
        comptime for half in range(2):
            comptime for j in range(4):
                var some = query.unsafe_load[width=lanes](
                    j * head_dim + i + half * lanes
                )
                comptime for k in range(together):
                    sums[4 * k + j] = fma(some, key[2 * k + half], sums[4 * k + j])
    comptime if whole < head_dim:
        comptime for k in range(together):
            var some = load[lanes](keys, places[k] + whole)
            comptime for j in range(4):
                sums[4 * k + j] = fma(
                    query.unsafe_load[width=lanes](j * head_dim + whole),
                    some,
                    sums[4 * k + j],
                )
    return _sums(sums)


@always_inline
def _sums[lanes: Int](rows: Array[Lanes[lanes], lanes]) -> Lanes[lanes]:
    """The sum of each row."""
    var eights = Array[Lanes[lanes], 8](uninitialized=True)
    comptime for i in range(8):
        comptime if lanes == 16:
            var a = rows[i]
            var b = rows[i + lanes - 8]
            eights[i] = a.shuffle[
                0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
            ](b) + a.shuffle[
                8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
            ](b)
        else:
            eights[i] = rows[i]
    var low = _pair_sums(
        _pair_sums(eights[0], eights[1]), _pair_sums(eights[2], eights[3])
    )
    var high = _pair_sums(
        _pair_sums(eights[4], eights[5]), _pair_sums(eights[6], eights[7])
    )
    comptime if lanes == 16:
        return low.shuffle[
            0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
        ](high) + low.shuffle[
            4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
        ](high)
    else:
        return low.shuffle[0, 1, 2, 3, 8, 9, 10, 11](high) + low.shuffle[
            4, 5, 6, 7, 12, 13, 14, 15
        ](high)


@always_inline
def _pair_sums[lanes: Int](a: Lanes[lanes], b: Lanes[lanes]) -> Lanes[lanes]:
    """Sums of neighbors, those of both vectors alternating by halves of eight."""
    comptime if lanes == 16:
        return a.shuffle[
            0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30
        ](b) + a.shuffle[
            1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31
        ](b)
    else:
        return a.shuffle[0, 2, 8, 10, 4, 6, 12, 14](b) + a.shuffle[
            1, 3, 9, 11, 5, 7, 13, 15
        ](b)


@always_inline
def weigh_four[
    head_dim: Int, lanes: Int
](scores: Floats, count: Int, tops: Floats, sums: Floats, result: Floats):
    """Scores `[keys, 4]` to powers of 2, relative to the largest so far.

    Args:
        scores: With room up to whole vectors.
        count: How many keys.
        tops: The largest so far, of each query.
        sums: The sums of powers so far.
        result: `[4, head dim]`, the weighted sums of values so far.
    """
    var size = ceildiv(count * 4, lanes) * lanes
    for i in range(count * 4, size, 4):
        scores.unsafe_store(i, Lanes[4](LOWEST))
    var most = Lanes[lanes](LOWEST)
    for i in range(0, size, lanes):
        most = larger(scores.unsafe_load[width=lanes](i), most)
    var old = tops.unsafe_load[width=4](0)
    var top = old
    comptime for k in range(TOGETHER[lanes]):
        top = larger(most.slice[4, offset=4 * k](), top)
    var all = _repeated[lanes](top)
    var sum = Lanes[lanes](0)
    for i in range(0, size, lanes):
        var power = power_of_2(scores.unsafe_load[width=lanes](i) - all)
        scores.unsafe_store(i, power)
        sum += power
    var factor = power_of_2(old - top)
    var total = sums.unsafe_load[width=4](0) * factor
    comptime for k in range(TOGETHER[lanes]):
        total += sum.slice[4, offset=4 * k]()
    tops.unsafe_store(0, top)
    sums.unsafe_store(0, total)
    comptime for j in range(4):
        if factor[j] != 1:
            scale_row[lanes](result.unsafe_offset(j * head_dim), head_dim, factor[j])


@always_inline
def _repeated[lanes: Int](four: Lanes[4]) -> Lanes[lanes]:
    comptime if lanes == 16:
        return rebind[Lanes[lanes]](four.join(four).join(four.join(four)))
    else:
        return rebind[Lanes[lanes]](four.join(four))


@always_inline
def add_values[
    dtype: DType, head_dim: Int, lanes: Int
](
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    width: Int,
    count: Int,
    weights: Floats,
    result: Floats,
    next: Pointer[Scalar[dtype], MutUntrackedOrigin],
    fetches: Bool,
):
    """Adds keys' values, weighted, to the sums of four queries.

    Args:
        values: The first key's.
        width: Values from one key to the next.
        count: How many keys.
        weights: `[keys, 4]`.
        result: `[4, head dim]`, crossed.
        next: As many values as are added here, which are needed soon.
        fetches: Whether they are.
    """
    # As much of a value as there are registers for its four sums.
    comptime step = lanes // 4 * lanes
    comptime for i in range(0, head_dim, step):
        comptime vectors = min(step, head_dim - i) // lanes
        var sums = Array[Lanes[lanes], 4 * vectors](uninitialized=True)
        comptime for j in range(4):
            comptime for v in range(vectors):
                sums[j * vectors + v] = result.unsafe_load[width=lanes](
                    j * head_dim + i + v * lanes
                )
        for index in range(count):
            if fetches:
                fetch[dtype, vectors * lanes](next.unsafe_offset(index * head_dim + i))
            var value = Array[Lanes[lanes], vectors](uninitialized=True)
            comptime for v in range(0, vectors, 2):
                comptime if v + 1 < vectors:
                    var two = load_two[lanes](values, index * width + i + v * lanes)
                    value[v] = two[0]
                    value[v + 1] = two[1]
                else:
                    value[v] = load[lanes](values, index * width + i + v * lanes)
            comptime for j in range(4):
                var weight = Lanes[lanes](weights.unsafe_load(index * 4 + j))
                comptime for v in range(vectors):
                    sums[j * vectors + v] = fma(weight, value[v], sums[j * vectors + v])
        comptime for j in range(4):
            comptime for v in range(vectors):
                result.unsafe_store(
                    j * head_dim + i + v * lanes, sums[j * vectors + v]
                )


@always_inline
def fetch[
    dtype: DType, count: Int
](values: Pointer[Scalar[dtype], MutUntrackedOrigin]):
    """Begins to read values that are needed soon, while others are computed with."""
    comptime line = 64 // size_of[dtype]()
    comptime for i in range(0, count, line):
        prefetch[_SOON](values.unsafe_offset(i))
