"""One step of an online softmax, whose scores arrive block by block.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from std.math import ceildiv, fma

from .simd import LOWEST, FloatPointer, FloatVector, max_or_second, exp2, scale_floats


@always_inline
def softmax_step[
    simd_width: Int, use_bfloat16: Bool = False
](
    scores: FloatPointer,
    count: Int,
    maximum: FloatPointer,
    sum: FloatPointer,
    output: FloatPointer,
    width: Int,
):
    """Replaces a row of scores by powers of 2, relative to the largest score so far.

    Parameters:
        simd_width: Values of a vector.
        use_bfloat16: Whether the powers are stored as pairs of bfloat16, in half the
            space.

    Args:
        scores: Scores of a block of keys, with room up to whole vectors.
        count: Number of keys.
        maximum: The largest score so far.
        sum: The sum of the powers so far.
        output: The weighted sum of values so far, rescaled if the maximum rises.
        width: Values of `output`, in whole vectors.
    """
    for i in range(count, ceildiv(count, simd_width) * simd_width):
        scores.unsafe_store(i, LOWEST)
    var old_maximum = maximum.unsafe_load(0)
    var largest = Array[FloatVector[simd_width], 2](
        fill=FloatVector[simd_width](old_maximum)
    )
    var whole = ceildiv(count, simd_width) * simd_width
    var i = 0
    while i + 2 * simd_width <= whole:
        comptime for j in range(2):
            largest[j] = max_or_second(
                scores.unsafe_load[width=simd_width](i + j * simd_width), largest[j]
            )
        i += 2 * simd_width
    if i < whole:
        largest[0] = max_or_second(scores.unsafe_load[width=simd_width](i), largest[0])
    var new_maximum = max_or_second(largest[0], largest[1]).reduce_max()
    var totals = Array[FloatVector[simd_width], 2](fill=FloatVector[simd_width](0))
    i = 0
    while i + 2 * simd_width <= whole:
        comptime for j in range(2):
            totals[j] += _store_weights[simd_width, use_bfloat16](
                scores, i + j * simd_width, new_maximum
            )
        i += 2 * simd_width
    if i < whole:
        totals[0] += _store_weights[simd_width, use_bfloat16](scores, i, new_maximum)
    var factor = exp2(old_maximum - new_maximum)
    maximum.unsafe_store(0, new_maximum)
    sum.unsafe_store(
        0, fma(sum.unsafe_load(0), factor, (totals[0] + totals[1]).reduce_add())
    )
    if factor != 1:
        scale_floats[simd_width](output, width, factor)


@always_inline
def _store_weights[
    simd_width: Int, use_bfloat16: Bool
](scores: FloatPointer, index: Int, maximum: Float32) -> FloatVector[simd_width]:
    """Replaces a vector of scores by its powers, and returns these."""
    var power = exp2[coarse=use_bfloat16](
        scores.unsafe_load[width=simd_width](index) - maximum
    )
    comptime if use_bfloat16:
        # In half the space, this overwrites only scores that have been read.
        scores.unsafe_bitcast[BFloat16]().unsafe_store(
            index, power.cast[DType.bfloat16]()
        )
    else:
        scores.unsafe_store(index, power)
    return power
