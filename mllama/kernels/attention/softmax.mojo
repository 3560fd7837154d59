"""One step of a softmax whose scores come block by block.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from std.math import ceildiv, fma

from .lanes import LOWEST, Floats, Lanes, larger, power_of_2, scale_row


@always_inline
def weigh(
    scores: Floats,
    count: Int,
    top: Floats,
    sum: Floats,
    result: Floats,
    width: Int,
):
    """A row of scores to powers of 2, relative to the largest so far.

    Args:
        scores: Of the keys of a block, with room up to a multiple of 8.
        count: How many there are.
        top: The largest so far.
        sum: The sum of the powers so far.
        result: The weighted sum of values so far.
        width: Of the result, a multiple of 8.
    """
    for i in range(count, ceildiv(count, 8) * 8):
        scores.unsafe_store(i, LOWEST)
    var old = top.unsafe_load(0)
    var most = Array[Lanes, 2](fill=Lanes(old))
    var whole = ceildiv(count, 8) * 8
    var i = 0
    while i + 16 <= whole:
        comptime for j in range(2):
            most[j] = larger(scores.unsafe_load[width=8](i + j * 8), most[j])
        i += 16
    if i < whole:
        most[0] = larger(scores.unsafe_load[width=8](i), most[0])
    var new = larger(most[0], most[1]).reduce_max()
    var total = Array[Lanes, 2](fill=Lanes(0))
    i = 0
    while i + 16 <= whole:
        comptime for j in range(2):
            var power = power_of_2(scores.unsafe_load[width=8](i + j * 8) - new)
            scores.unsafe_store(i + j * 8, power)
            total[j] += power
        i += 16
    if i < whole:
        var power = power_of_2(scores.unsafe_load[width=8](i) - new)
        scores.unsafe_store(i, power)
        total[0] += power
    var factor = power_of_2(old - new)
    top.unsafe_store(0, new)
    sum.unsafe_store(
        0, fma(sum.unsafe_load(0), factor, (total[0] + total[1]).reduce_add())
    )
    if factor != 1:
        scale_row(result, width, factor)
