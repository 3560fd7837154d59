"""Paged keys and values as the operations see them, and the queries that read them."""

from std.math import fma, sqrt

from .lanes import Floats, Lanes, fill_row

comptime PAGE = 128
"""Rows of a page."""


@fieldwise_init
struct Pages[dtype: DType](Copyable, Movable):
    """One layer of an image pool or KV cache.

    Both are `[pages, 2, layers, PAGE, kv heads, head dim]`.
    """

    var start: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    var layers: Int
    var layer: Int
    var kv_heads: Int
    var head_dim: Int

    @always_inline
    def row_width(self) -> Int:
        """Values of one row: all heads."""
        return self.kv_heads * self.head_dim

    @always_inline
    def keys(self, page: Int) -> Pointer[Scalar[Self.dtype], MutUntrackedOrigin]:
        """`[PAGE, kv heads, head dim]` of a page."""
        return self.start.unsafe_offset(
            (page * 2 * self.layers + self.layer) * PAGE * self.row_width()
        )

    @always_inline
    def values(self, page: Int) -> Pointer[Scalar[Self.dtype], MutUntrackedOrigin]:
        """`[PAGE, kv heads, head dim]` of a page."""
        return self.start.unsafe_offset(
            ((page * 2 + 1) * self.layers + self.layer) * PAGE * self.row_width()
        )


@fieldwise_init
struct Norm(Copyable, Movable):
    """RMSNorm of a head's vector."""

    var weight: Floats
    """`[head dim]`."""
    var epsilon: Float32


@fieldwise_init
struct Queries(Copyable, Movable):
    """Query rows, and where the attended rows go."""

    var start: Floats
    """`[rows, heads, head dim]`."""
    var result: Floats
    """Of the same shape."""
    var norm: Optional[Norm]
    """What is done to them first."""
    var scale: Float32
    """Multiplies them then."""
    var heads: Int
    var head_dim: Int

    @always_inline
    def place(self, row: Int, head: Int) -> Int:
        """Where a head's vector begins, in the queries and in the result."""
        return (row * self.heads + head) * self.head_dim

    def prepared(self, row: Int, head: Int, target: Floats):
        """Writes a head's vector, normed and scaled."""
        var source = self.start.unsafe_offset(self.place(row, head))
        if not self.norm:
            for i in range(0, self.head_dim, 8):
                target.unsafe_store(i, source.unsafe_load[width=8](i) * self.scale)
            return
        ref norm = self.norm.value()
        var squares = Lanes[8](0)
        for i in range(0, self.head_dim, 8):
            var some = source.unsafe_load[width=8](i)
            squares = fma(some, some, squares)
        var mean = squares.reduce_add() / Float32(self.head_dim)
        var factor = self.scale / sqrt(mean + norm.epsilon)
        for i in range(0, self.head_dim, 8):
            target.unsafe_store(
                i,
                source.unsafe_load[width=8](i)
                * factor
                * norm.weight.unsafe_load[width=8, alignment=1](i),
            )
