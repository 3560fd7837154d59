"""Rotary embedding of queries and keys, and the storage of keys and values.

Source: RoFormer (https://arxiv.org/abs/2104.09864), with dimensions paired as in
transformers' `modeling_llama.py`: each of a head's first half with one of its second.
"""

from std.memory import unsafe_stack_allocation

from .simd import FloatPointer
from .pages import HEAD_STRIDE, Pages
from .store import NewTokens, store_heads

comptime _WIDTH = 4
"""Values of a vector: half a head is a multiple of four."""


def rotate_and_store[
    dtype: DType, head_dim: Int
](
    pages: Pages[dtype],
    tokens: NewTokens,
    qkv: FloatPointer,
    heads: Int,
    table: FloatPointer,
    queries: FloatPointer,
):
    """Rotates the queries and keys of tokens that have been checked, and stores keys
    and values.

    Args:
        pages: Output, whose data type keys and values are rounded to.
        tokens: The tokens, and where they go.
        qkv: `[tokens, heads + 2 * kv heads, head dim]`: queries, keys, values.
        heads: Number of heads of the queries.
        table: `[positions, head dim]`, cosine and sine of each pair of dimensions.
        queries: Output, `[tokens, heads, head dim]`.
    """
    var width = pages.token_width()
    var kv_heads = pages.kv_heads
    comptime stride = HEAD_STRIDE[dtype, head_dim]

    def work(token: Int, position: Int, page: Int, place: Int) {imm}:
        var source = qkv.unsafe_offset(token * (heads + 2 * kv_heads) * head_dim)
        var angles = table.unsafe_offset(position * head_dim)
        for head in range(heads):
            _rotate[head_dim](
                source.unsafe_offset(head * head_dim),
                angles,
                queries.unsafe_offset((token * heads + head) * head_dim),
            )
        var key = rebind[FloatPointer](
            unsafe_stack_allocation[head_dim, Float32, alignment=64]()
        )
        var keys = pages.keys(page).unsafe_offset(place * width)
        for head in range(kv_heads):
            _rotate[head_dim](
                source.unsafe_offset((heads + head) * head_dim), angles, key
            )
            store_heads[dtype, head_dim](key, keys.unsafe_offset(head * stride), 1)
        store_heads[dtype, head_dim](
            source.unsafe_offset((heads + kv_heads) * head_dim),
            pages.values(page).unsafe_offset(place * width),
            kv_heads,
        )

    tokens.for_each(work)


@always_inline
def _rotate[
    head_dim: Int
](source: FloatPointer, angles: FloatPointer, target: FloatPointer):
    """Rotates a head's vector."""
    comptime half = head_dim // 2
    for i in range(0, half, _WIDTH):
        var first = source.unsafe_load[width=_WIDTH](i)
        var second = source.unsafe_load[width=_WIDTH](half + i)
        var pairs = angles.unsafe_load[width=2 * _WIDTH](2 * i).deinterleave()
        target.unsafe_store(i, first * pairs[0] - second * pairs[1])
        target.unsafe_store(half + i, second * pairs[0] + first * pairs[1])
