"""Writes keys and values of new images into their pages."""

from max.algorithm import sync_parallelize
from std.math import ceildiv

from .simd import FloatPointer
from .pages import HEAD_STRIDE, PAGE_SIZE, Pages
from .quantize import quantize_vector
from .plan import IndexPointer

comptime _PATCHES_PER_TASK = 64


@fieldwise_init
struct Images(Copyable, Movable):
    """Ranges of patches, and the pages that each range is written to."""

    var count: Int
    var patch_offsets: IndexPointer
    """`[count + 1]`."""
    var starts: IndexPointer
    """`[count]`, the position of each image's first patch in its pages."""
    var table: IndexPointer
    """`[count, columns]`, the page table of each image."""
    var columns: Int

    def check(self, num_patches: Int, num_pages: Int) raises:
        """Checks that nothing is read or written beyond the patches, the page table or
        the cache."""
        if self.patch_offsets.unsafe_load(0) != 0 or (
            Int(self.patch_offsets.unsafe_load(self.count)) != num_patches
        ):
            raise Error("the images' offsets don't cover the keys and values")
        for image in range(self.count):
            var first = Int(self.patch_offsets.unsafe_load(image))
            var end = Int(self.patch_offsets.unsafe_load(image + 1))
            if first > end:
                raise Error("the images' offsets decrease")
            var start = Int(self.starts.unsafe_load(image))
            var used = ceildiv(start + end - first, PAGE_SIZE)
            if used > self.columns:
                raise Error("an image has more patches than its page table covers")
            for column in range(start // PAGE_SIZE, used):
                var page = self.table.unsafe_load(image * self.columns + column)
                if Int(page) >= num_pages:
                    raise Error(
                        "an image's page table names a page beyond the cache"
                    )


def store_image_kv[
    dtype: DType, head_dim: Int
](pages: Pages[dtype], images: Images, keys: FloatPointer, values: FloatPointer):
    """Writes patches that have been checked.

    Args:
        pages: Output, whose data type the values are rounded to.
        images: Patches of each image, and where they go.
        keys: `[patches, kv heads, head dim]`.
        values: Of the same shape.
    """
    var width = pages.token_width()
    var heads = pages.kv_heads
    for image in range(images.count):
        var first = Int(images.patch_offsets.unsafe_load(image))
        var count = Int(images.patch_offsets.unsafe_load(image + 1)) - first
        var start = Int(images.starts.unsafe_load(image))

        def work(task: Int) {imm}:
            var begin = task * _PATCHES_PER_TASK
            for i in range(begin, min(count, begin + _PATCHES_PER_TASK)):
                var position = start + i
                var page = Int(
                    images.table.unsafe_load(
                        image * images.columns + position // PAGE_SIZE
                    )
                )
                var offset = position % PAGE_SIZE * width
                var source = (first + i) * heads * head_dim
                _store_token[dtype, head_dim](
                    keys.unsafe_offset(source),
                    pages.keys(page).unsafe_offset(offset),
                    heads,
                )
                _store_token[dtype, head_dim](
                    values.unsafe_offset(source),
                    pages.values(page).unsafe_offset(offset),
                    heads,
                )

        sync_parallelize(work, ceildiv(count, _PATCHES_PER_TASK))


@always_inline
def _store_token[
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
