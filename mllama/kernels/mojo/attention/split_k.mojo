"""Partial results of tasks that take a range of the keys each, and their merging.

Source: Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from std.math import fma

from .simd import (
    FloatPointer,
    FloatVector,
    fill_floats,
    max_or_second,
    exp2,
    scale_floats,
)
from .pages import Queries


@always_inline
def num_quads(vectors: Int) -> Int:
    """Returns the number of quads: query vectors are processed four at a time."""
    return (vectors + 3) // 4


@always_inline
def split_size(kv_heads: Int, vectors: Int, head_dim: Int) -> Int:
    """Returns the size, in float32 values, of a task's partial result.

    It holds the weighted sums of values, then each vector's largest score, then each
    vector's sum of weights.
    """
    return kv_heads * num_quads(vectors) * 4 * (head_dim + 2)


def merge_splits(
    queries: Queries,
    kv_heads: Int,
    vectors: Int,
    splits: FloatPointer,
    count: Int,
    token_index: Int,
    token: Int,
):
    """Merges the partial results of a query token's tasks into its output.

    Args:
        queries: The queries, and the output.
        kv_heads: Number of KV heads.
        vectors: Query vectors of each KV head.
        splits: The partial results.
        count: Number of partial results.
        token_index: Index of the token among those that the tasks processed.
        token: Index of the token among the queries.
    """
    var head_dim = queries.head_dim
    var gqa_ratio = queries.heads // kv_heads
    var padded_vectors = num_quads(vectors) * 4
    var size = split_size(kv_heads, vectors, head_dim)
    var all_vectors = kv_heads * padded_vectors
    for head in range(queries.heads):
        var vector = (
            head // gqa_ratio * padded_vectors
            + token_index * gqa_ratio
            + head % gqa_ratio
        )
        var maxima = splits.unsafe_offset(all_vectors * head_dim + vector)
        var sums = maxima.unsafe_offset(all_vectors)
        var maximum = maxima.unsafe_load(0)
        for i in range(1, count):
            maximum = max_or_second(maxima.unsafe_load(i * size), maximum)
        var output = queries.result.unsafe_offset(queries.offset(token, head))
        fill_floats(output, head_dim, 0)
        var sum = Float32(0)
        for i in range(count):
            var weight = exp2(maxima.unsafe_load(i * size) - maximum)
            sum = fma(sums.unsafe_load(i * size), weight, sum)
            var source = splits.unsafe_offset(i * size + vector * head_dim)
            for d in range(0, head_dim, 8):
                output.unsafe_store(
                    d,
                    fma(
                        source.unsafe_load[width=8](d),
                        FloatVector[8](weight),
                        output.unsafe_load[width=8](d),
                    ),
                )
        scale_floats[8](output, head_dim, 1 / sum)
