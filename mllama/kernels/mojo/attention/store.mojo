"""Writes keys and values of new tokens into their pages."""

from max.algorithm import sync_parallelize
from std.math import ceildiv

from .simd import FloatPointer
from .pages import HEAD_STRIDE, PAGE_SIZE, Pages
from .quantize import quantize_vector
from .plan import IndexPointer

comptime _TOKENS_PER_TASK = 64


@fieldwise_init
struct NewTokens(Copyable, Movable):
    """Ranges of new tokens, those of an image or of a request, and the pages that each
    range is written to."""

    var count: Int
    var token_offsets: IndexPointer
    """`[count + 1]`."""
    var starts: IndexPointer
    """`[count]`, the position of each range's first token in its pages."""
    var table: IndexPointer
    """`[count, columns]`, the page table of each range."""
    var columns: Int

    def check(self, num_tokens: Int, num_pages: Int) raises:
        """Checks that nothing is read or written beyond the tokens, the page table or
        the cache."""
        if self.token_offsets.unsafe_load(0) != 0 or (
            Int(self.token_offsets.unsafe_load(self.count)) != num_tokens
        ):
            raise Error("the ranges' offsets don't cover the keys and values")
        for index in range(self.count):
            var first = Int(self.token_offsets.unsafe_load(index))
            var end = Int(self.token_offsets.unsafe_load(index + 1))
            if first > end:
                raise Error("the ranges' offsets decrease")
            if first == end:
                continue
            var start = Int(self.starts.unsafe_load(index))
            var used = ceildiv(start + end - first, PAGE_SIZE)
            if used > self.columns:
                raise Error("a range has more tokens than its page table covers")
            for column in range(start // PAGE_SIZE, used):
                var page = self.table.unsafe_load(index * self.columns + column)
                if Int(page) >= num_pages:
                    raise Error("a range's page table names a page beyond the cache")

    def end(self) -> Int:
        """Returns the largest position of a token, plus one."""
        var end = 0
        for index in range(self.count):
            var count = Int(self.token_offsets.unsafe_load(index + 1)) - Int(
                self.token_offsets.unsafe_load(index)
            )
            if count > 0:
                end = max(end, Int(self.starts.unsafe_load(index)) + count)
        return end

    def for_each[Work: def(Int, Int, Int, Int) -> None](self, work: Work):
        """Calls a function with each token's index, its position, its page and its
        place in the page, on all cores."""
        var total = Int(self.token_offsets.unsafe_load(self.count))

        def run(task: Int) {imm}:
            var end = min(total, (task + 1) * _TOKENS_PER_TASK)
            var index = 0
            for token in range(task * _TOKENS_PER_TASK, end):
                while token >= Int(self.token_offsets.unsafe_load(index + 1)):
                    index += 1
                var position = (
                    Int(self.starts.unsafe_load(index))
                    + token
                    - Int(self.token_offsets.unsafe_load(index))
                )
                var page = Int(
                    self.table.unsafe_load(
                        index * self.columns + position // PAGE_SIZE
                    )
                )
                work(token, position, page, position % PAGE_SIZE)

        if total <= _TOKENS_PER_TASK:
            run(0)
        else:
            sync_parallelize(run, ceildiv(total, _TOKENS_PER_TASK))


def store_kv[
    dtype: DType, head_dim: Int
](pages: Pages[dtype], tokens: NewTokens, keys: FloatPointer, values: FloatPointer):
    """Writes tokens that have been checked.

    Args:
        pages: Output, whose data type the values are rounded to.
        tokens: The tokens, and where they go.
        keys: `[tokens, kv heads, head dim]`.
        values: Of the same shape.
    """
    var width = pages.token_width()
    var heads = pages.kv_heads

    def work(token: Int, position: Int, page: Int, place: Int) {imm}:
        var source = token * heads * head_dim
        store_heads[dtype, head_dim](
            keys.unsafe_offset(source),
            pages.keys(page).unsafe_offset(place * width),
            heads,
        )
        store_heads[dtype, head_dim](
            values.unsafe_offset(source),
            pages.values(page).unsafe_offset(place * width),
            heads,
        )

    tokens.for_each(work)


@always_inline
def store_heads[
    dtype: DType, head_dim: Int
](source: FloatPointer, target: Pointer[Scalar[dtype], MutUntrackedOrigin], heads: Int):
    """Writes the vectors `[heads, head dim]` of a token."""
    comptime if dtype == DType.int8:
        for head in range(heads):
            quantize_vector[head_dim](
                source.unsafe_offset(head * head_dim),
                target.unsafe_offset(
                    head * HEAD_STRIDE[dtype, head_dim]
                ).unsafe_bitcast[Int8](),
            )
    else:
        for i in range(0, heads * head_dim, 8):
            target.unsafe_store(i, source.unsafe_load[width=8](i).cast[dtype]())
