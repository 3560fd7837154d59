"""Outcomes of tasks that take a range of the keys each, and how they become one.

Source: Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from std.math import fma

from .lanes import Floats, Lanes, fill_row, larger, power_of_2, scale_row
from .pages import Queries


@always_inline
def blocks_of_four(vectors: Int) -> Int:
    """Query vectors are taken four at a time."""
    return (vectors + 3) // 4


@always_inline
def partial_size(kv_heads: Int, vectors: Int, head_dim: Int) -> Int:
    """Floats of a task's outcome: weighted sums of values, then for each vector the
    largest score and the sum of the weights."""
    return kv_heads * blocks_of_four(vectors) * 4 * (head_dim + 2)


def merge(
    queries: Queries,
    kv_heads: Int,
    vectors: Int,
    partials: Floats,
    count: Int,
    index: Int,
    row: Int,
):
    """Writes a row from the outcomes of the tasks that its keys were shared among.

    Args:
        queries: Where the row goes.
        kv_heads: Of keys and values.
        vectors: Query vectors of each of them.
        partials: The outcomes.
        count: How many there are.
        index: The row among those that the tasks have taken.
        row: The row among the queries.
    """
    var head_dim = queries.head_dim
    var group = queries.heads // kv_heads
    var padded = blocks_of_four(vectors) * 4
    var size = partial_size(kv_heads, vectors, head_dim)
    var all = kv_heads * padded
    for head in range(queries.heads):
        var place = head // group * padded + index * group + head % group
        var tops = partials.unsafe_offset(all * head_dim + place)
        var sums = tops.unsafe_offset(all)
        var top = tops.unsafe_load(0)
        for i in range(1, count):
            top = larger(tops.unsafe_load(i * size), top)
        var target = queries.result.unsafe_offset(queries.place(row, head))
        fill_row(target, head_dim, 0)
        var sum = Float32(0)
        for i in range(count):
            var weight = power_of_2(tops.unsafe_load(i * size) - top)
            sum = fma(sums.unsafe_load(i * size), weight, sum)
            var source = partials.unsafe_offset(i * size + place * head_dim)
            for d in range(0, head_dim, 8):
                target.unsafe_store(
                    d,
                    fma(
                        source.unsafe_load[width=8](d),
                        Lanes[8](weight),
                        target.unsafe_load[width=8](d),
                    ),
                )
        scale_row[8](target, head_dim, 1 / sum)
