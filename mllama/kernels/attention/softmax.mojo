"""One step of a softmax whose scores come block by block.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from std.math import ceildiv, fma

from .lanes import LOWEST, Floats, Lanes, larger, power_of_2, scale_row


@always_inline
def weigh[
    lanes: Int
](
    scores: Floats,
    count: Int,
    top: Floats,
    sum: Floats,
    result: Floats,
    width: Int,
):
    """A row of scores to powers of 2, relative to the largest so far.

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
            var power = power_of_2(scores.unsafe_load[width=lanes](i + j * lanes) - new)
            scores.unsafe_store(i + j * lanes, power)
            total[j] += power
        i += 2 * lanes
    if i < whole:
        var power = power_of_2(scores.unsafe_load[width=lanes](i) - new)
        scores.unsafe_store(i, power)
        total[0] += power
    var factor = power_of_2(old - new)
    top.unsafe_store(0, new)
    sum.unsafe_store(
        0, fma(sum.unsafe_load(0), factor, (total[0] + total[1]).reduce_add())
    )
    if factor != 1:
        scale_row[lanes](result, width, factor)
