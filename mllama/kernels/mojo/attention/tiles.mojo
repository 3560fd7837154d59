"""The steps of decode on a tile of keys: scores, softmax and weighted sums for four
queries of a head.

Those for int8 that differ are in `int8_tiles`.
"""

from std.math import ceildiv, fma
from std.sys import CompilationTarget, size_of
from std.sys.intrinsics import PrefetchOptions, prefetch

from .simd import (
    FloatPointer,
    LOWEST,
    FloatVector,
    max_or_second,
    load,
    load_two_vectors,
    exp2,
    scale_floats,
)

comptime _READ = PrefetchOptions().for_read().to_data_cache()
comptime _IS_ZEN_5 = CompilationTarget._arch() == "znver5"
comptime _LOCALITY = _READ.high_locality() if _IS_ZEN_5 else _READ.medium_locality()
"""Prefetches into the L2 cache, for which a core can await more lines at once than for
L1: 1.7 times as fast on Zen 4. For Zen 5 see `gguf_matmul/prefetch.mojo`."""
comptime KEYS_PER_VECTOR[simd_width: Int] = simd_width // 4
"""Keys whose scores with four queries fill a vector."""


@always_inline
def tile_scores[
    dtype: DType, head_dim: Int, simd_width: Int
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    token_width: Int,
    last: Int,
    query: FloatPointer,
) -> FloatVector[simd_width]:
    """Returns the dot products of the next keys with four queries, `[keys, 4]`.

    Args:
        keys: The first key.
        token_width: Values from one key to the next.
        last: Index of the last key, which is read in place of those beyond it.
        query: `[4, head dim]`, in the order of `deinterleave_row`.
    """
    comptime keys_per_vector = KEYS_PER_VECTOR[simd_width]
    var sums = Array[FloatVector[simd_width], simd_width](
        fill=FloatVector[simd_width](0)
    )
    var key = Array[FloatVector[simd_width], 2 * keys_per_vector](uninitialized=True)
    var offsets = Array[Int, keys_per_vector](uninitialized=True)
    comptime for k in range(keys_per_vector):
        offsets[k] = min(k, last) * token_width
    comptime whole = head_dim // (2 * simd_width) * 2 * simd_width
    for i in range(0, whole, 2 * simd_width):
        comptime for k in range(keys_per_vector):
            var two = load_two_vectors[simd_width](keys, offsets[k] + i)
            key[2 * k] = two[0]
            key[2 * k + 1] = two[1]
        comptime for half in range(2):
            comptime for j in range(4):
                var vector = query.unsafe_load[width=simd_width](
                    j * head_dim + i + half * simd_width
                )
                comptime for k in range(keys_per_vector):
                    sums[4 * k + j] = fma(vector, key[2 * k + half], sums[4 * k + j])
    comptime if whole < head_dim:
        comptime for k in range(keys_per_vector):
            var vector = load[simd_width](keys, offsets[k] + whole)
            comptime for j in range(4):
                sums[4 * k + j] = fma(
                    query.unsafe_load[width=simd_width](j * head_dim + whole),
                    vector,
                    sums[4 * k + j],
                )
    return row_sums(sums)


@always_inline
def row_sums[
    dtype: DType, simd_width: Int, //
](rows: Array[SIMD[dtype, simd_width], simd_width]) -> SIMD[dtype, simd_width]:
    """Returns the sum of each row."""
    var eights = Array[SIMD[dtype, simd_width], 8](uninitialized=True)
    comptime for i in range(8):
        comptime if simd_width == 16:
            var a = rows[i]
            var b = rows[i + simd_width - 8]
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
    comptime if simd_width == 16:
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
def _pair_sums[
    dtype: DType, simd_width: Int, //
](a: SIMD[dtype, simd_width], b: SIMD[dtype, simd_width]) -> SIMD[dtype, simd_width]:
    """Adds neighbors, and alternates the sums of both vectors by halves of eight."""
    comptime if simd_width == 16:
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
def softmax_step_of_quad[
    head_dim: Int, simd_width: Int
](
    scores: FloatPointer,
    count: Int,
    maxima: FloatPointer,
    sums: FloatPointer,
    output: FloatPointer,
):
    """Replaces scores `[keys, 4]` by powers of 2, relative to each query's largest
    score so far.

    Args:
        scores: The scores, with room up to whole vectors.
        count: Number of keys.
        maxima: Each query's largest score so far.
        sums: Each query's sum of powers so far.
        output: `[4, head dim]`, the weighted sums of values so far, rescaled if a
            maximum rises.
    """
    var size = ceildiv(count * 4, simd_width) * simd_width
    for i in range(count * 4, size, 4):
        scores.unsafe_store(i, FloatVector[4](LOWEST))
    var largest = FloatVector[simd_width](LOWEST)
    for i in range(0, size, simd_width):
        largest = max_or_second(scores.unsafe_load[width=simd_width](i), largest)
    var old_maximum = maxima.unsafe_load[width=4](0)
    var maximum = old_maximum
    comptime for k in range(KEYS_PER_VECTOR[simd_width]):
        maximum = max_or_second(largest.slice[4, offset=4 * k](), maximum)
    var broadcast_maximum = _broadcast_four[simd_width](maximum)
    var power_sums = FloatVector[simd_width](0)
    for i in range(0, size, simd_width):
        var power = exp2(scores.unsafe_load[width=simd_width](i) - broadcast_maximum)
        scores.unsafe_store(i, power)
        power_sums += power
    var factor = exp2(old_maximum - maximum)
    var new_sums = sums.unsafe_load[width=4](0) * factor
    comptime for k in range(KEYS_PER_VECTOR[simd_width]):
        new_sums += power_sums.slice[4, offset=4 * k]()
    maxima.unsafe_store(0, maximum)
    sums.unsafe_store(0, new_sums)
    comptime for j in range(4):
        if factor[j] != 1:
            scale_floats[simd_width](
                output.unsafe_offset(j * head_dim), head_dim, factor[j]
            )


@always_inline
def _broadcast_four[simd_width: Int](four: FloatVector[4]) -> FloatVector[simd_width]:
    comptime if simd_width == 16:
        return rebind[FloatVector[simd_width]](four.join(four).join(four.join(four)))
    else:
        return rebind[FloatVector[simd_width]](four.join(four))


@always_inline
def accumulate_values[
    dtype: DType, head_dim: Int, simd_width: Int
](
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    token_width: Int,
    count: Int,
    weights: FloatPointer,
    output: FloatPointer,
    upcoming: Pointer[Scalar[dtype], MutUntrackedOrigin],
    prefetches: Bool,
):
    """Adds weighted values to the sums of four queries.

    Args:
        values: The first key's value.
        token_width: Values from one key to the next.
        count: Number of keys.
        weights: `[keys, 4]`.
        output: `[4, head dim]`, in the order of `deinterleave_row`.
        upcoming: As many values as are added here, which are needed next.
        prefetches: Whether `upcoming` is prefetched.
    """
    # As many dimensions at a time as there are registers for the sums of four queries.
    comptime step = simd_width // 4 * simd_width
    comptime for i in range(0, head_dim, step):
        comptime vectors = min(step, head_dim - i) // simd_width
        var sums = Array[FloatVector[simd_width], 4 * vectors](uninitialized=True)
        comptime for j in range(4):
            comptime for v in range(vectors):
                sums[j * vectors + v] = output.unsafe_load[width=simd_width](
                    j * head_dim + i + v * simd_width
                )
        for index in range(count):
            if prefetches:
                prefetch_values[dtype, vectors * simd_width](
                    upcoming.unsafe_offset(index * head_dim + i)
                )
            var value = Array[FloatVector[simd_width], vectors](uninitialized=True)
            comptime for v in range(0, vectors, 2):
                comptime if v + 1 < vectors:
                    var two = load_two_vectors[simd_width](
                        values, index * token_width + i + v * simd_width
                    )
                    value[v] = two[0]
                    value[v + 1] = two[1]
                else:
                    value[v] = load[simd_width](
                        values, index * token_width + i + v * simd_width
                    )
            comptime for j in range(4):
                var weight = FloatVector[simd_width](weights.unsafe_load(index * 4 + j))
                comptime for v in range(vectors):
                    sums[j * vectors + v] = fma(weight, value[v], sums[j * vectors + v])
        comptime for j in range(4):
            comptime for v in range(vectors):
                output.unsafe_store(
                    j * head_dim + i + v * simd_width, sums[j * vectors + v]
                )


@always_inline
def prefetch_values[
    dtype: DType, count: Int
](values: Pointer[Scalar[dtype], MutUntrackedOrigin]):
    """Prefetches values that are needed soon, while others are processed."""
    comptime line = 64 // size_of[dtype]()
    comptime for i in range(0, count, line):
        prefetch[_LOCALITY](values.unsafe_offset(i))
