"""Paged keys and values as the kernels see them, and the queries that read them.

Keys and values are float32 or bfloat16, or int8 with a scale for each head of each
token: the bytes of a float32 that follow the head's int8 values.
"""

from extensibility import _MutableInputTensor as MutableInputTensor
from std.math import fma, sqrt

from .simd import FloatPointer, FloatVector, fill_floats

comptime PAGE_SIZE = 128
"""Tokens of a page."""
comptime _SCALE_BYTES = 4
comptime HEAD_STRIDE[dtype: DType, head_dim: Int] = head_dim + (
    _SCALE_BYTES if dtype == DType.int8 else 0
)
"""Values from one head's vector to the next, the bytes of an int8 vector's scale
included."""


@fieldwise_init
struct Pages[dtype: DType](Copyable, Movable):
    """One layer of the image cache or the KV cache.

    Both are `[pages, 2, layers, PAGE_SIZE, kv heads, HEAD_STRIDE]`.
    """

    var data: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    var layers: Int
    var layer: Int
    var kv_heads: Int
    var head_stride: Int

    @always_inline
    def token_width(self) -> Int:
        """Returns the number of values of one token: all heads."""
        return self.kv_heads * self.head_stride

    @always_inline
    def keys(self, page: Int) -> Pointer[Scalar[Self.dtype], MutUntrackedOrigin]:
        """Returns the keys of a page, `[PAGE_SIZE, kv heads, HEAD_STRIDE]`."""
        return self.data.unsafe_offset(
            (page * 2 * self.layers + self.layer) * PAGE_SIZE * self.token_width()
        )

    @always_inline
    def values(self, page: Int) -> Pointer[Scalar[Self.dtype], MutUntrackedOrigin]:
        """Returns the values of a page, `[PAGE_SIZE, kv heads, HEAD_STRIDE]`."""
        return self.data.unsafe_offset(
            ((page * 2 + 1) * self.layers + self.layer) * PAGE_SIZE * self.token_width()
        )


def pages_of_layer[
    dtype: DType, //, head_dim: Int
](cache: MutableInputTensor[dtype=dtype, rank=6, ...], layer: UInt32) raises -> Pages[
    dtype
]:
    """Returns one layer of a cache.

    Raises:
        Error: If the cache lacks the layer, or has another shape.
    """
    if (
        cache.dim_size(1) != 2
        or cache.dim_size(3) != PAGE_SIZE
        or cache.dim_size(5) != HEAD_STRIDE[dtype, head_dim]
    ):
        raise Error("the cache's pages must be [2, layers, 128, kv heads, head dim]")
    if Int(layer) >= cache.dim_size(2):
        raise Error("the cache doesn't have this layer")
    return Pages[dtype](
        cache.unsafe_ptr()
        .unsafe_mut_cast[True]()
        .unsafe_origin_cast[MutUntrackedOrigin](),
        cache.dim_size(2),
        Int(layer),
        cache.dim_size(4),
        cache.dim_size(5),
    )


@always_inline
def vector_scale[
    dtype: DType, head_dim: Int
](vector: Pointer[Scalar[dtype], MutUntrackedOrigin]) -> Float32:
    """Returns the factor of a head's values: the scale of int8 values, else 1."""
    comptime if dtype == DType.int8:
        return (
            vector.unsafe_offset(head_dim)
            .unsafe_bitcast[Float32]()
            .unsafe_load[width=1, alignment=1](0)
        )
    else:
        return 1


@fieldwise_init
struct Norm(Copyable, Movable):
    """RMSNorm of a head's vector."""

    var weight: FloatPointer
    """`[head dim]`."""
    var epsilon: Float32


@fieldwise_init
struct Queries(Copyable, Movable):
    """Query tokens, and the output of their attention."""

    var data: FloatPointer
    """`[tokens, heads, head dim]`."""
    var result: FloatPointer
    """Output, of the same shape."""
    var norm: Optional[Norm]
    """Norm that is applied to the queries first."""
    var scale: Float32
    """Factor that the queries are multiplied by next."""
    var heads: Int
    var head_dim: Int

    @always_inline
    def offset(self, token: Int, head: Int) -> Int:
        """Returns the offset of a head's vector, in the queries and in the result."""
        return (token * self.heads + head) * self.head_dim

    def write_prepared(self, token: Int, head: Int, target: FloatPointer):
        """Writes a head's query vector, normalized and scaled."""
        var source = self.data.unsafe_offset(self.offset(token, head))
        if not self.norm:
            for i in range(0, self.head_dim, 8):
                target.unsafe_store(i, source.unsafe_load[width=8](i) * self.scale)
            return
        ref norm = self.norm.value()
        var squares = FloatVector[8](0)
        for i in range(0, self.head_dim, 8):
            var vector = source.unsafe_load[width=8](i)
            squares = fma(vector, vector, squares)
        var mean = squares.reduce_add() / Float32(self.head_dim)
        var factor = self.scale / sqrt(mean + norm.epsilon)
        for i in range(0, self.head_dim, 8):
            target.unsafe_store(
                i,
                source.unsafe_load[width=8](i)
                * factor
                * norm.weight.unsafe_load[width=8, alignment=1](i),
            )
