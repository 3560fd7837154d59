"""One step of a softmax whose scores come block by block.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from std.math import ceildiv, fma

from .lanes import LOWEST, Floats, Lanes, larger, power_of_2, scale_row


@always_inline
def weigh[
    lanes: Int, pairs: Bool = False
](
    scores: Floats,
    count: Int,
    top: Floats,
    sum: Floats,
    result: Floats,
    width: Int,
):
    """A row of scores to powers of 2, relative to the largest so far.

    Parameters:
        lanes: Of a vector.
        pairs: Whether the powers are left as half as many pairs of bfloat16.

    Args:
        scores: Of the keys of a block, with room up to whole vectors.
        count: How many there are.
        top: The largest so far.
        sum: The sum of the powers so far.
        result: The weighted sum of values so far.
        width: Of the result, of whole vectors.
    """
    for i in range(count, ceildiv(count, lanes) * lanes):
        scores.unsafe_store(i, LOWEST)
    var old = top.unsafe_load(0)
    var most = Array[Lanes[lanes], 2](fill=Lanes[lanes](old))
    var whole = ceildiv(count, lanes) * lanes
    var i = 0
    while i + 2 * lanes <= whole:
        comptime for j in range(2):
            most[j] = larger(scores.unsafe_load[width=lanes](i + j * lanes), most[j])
        i += 2 * lanes
    if i < whole:
        most[0] = larger(scores.unsafe_load[width=lanes](i), most[0])
    var new = larger(most[0], most[1]).reduce_max()
    var total = Array[Lanes[lanes], 2](fill=Lanes[lanes](0))
    i = 0
    while i + 2 * lanes <= whole:
        comptime for j in range(2):
            total[j] += _weights[lanes, pairs](scores, i + j * lanes, new)
        i += 2 * lanes
    if i < whole:
        total[0] += _weights[lanes, pairs](scores, i, new)
    var factor = power_of_2(old - new)
    top.unsafe_store(0, new)
    sum.unsafe_store(
        0, fma(sum.unsafe_load(0), factor, (total[0] + total[1]).reduce_add())
    )
    if factor != 1:
        scale_row[lanes](result, width, factor)


@always_inline
def _weights[
    lanes: Int, pairs: Bool
](scores: Floats, place: Int, top: Float32) -> Lanes[lanes]:
    """Powers of a vector's scores; they take its place in the row."""
    var power = power_of_2[coarse=pairs](
        scores.unsafe_load[width=lanes](place) - top
    )
    comptime if pairs:
        # Half as wide: what lies before is already read.
        scores.unsafe_bitcast[BFloat16]().unsafe_store(
            place, power.cast[DType.bfloat16]()
        )
    else:
        scores.unsafe_store(place, power)
    return power
