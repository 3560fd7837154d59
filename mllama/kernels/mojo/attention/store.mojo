"""Keys and values of new images, written into their pages."""

from max.algorithm import sync_parallelize
from std.math import ceildiv

from .lanes import Floats
from .pages import PAGE, Pages
from .plan import Integers

comptime _ROWS_PER_TASK = 64


@fieldwise_init
struct Images(Copyable, Movable):
    """Ranges of rows and the pages that each is written to."""

    var count: Int
    var row_offsets: Integers
    """`[count + 1]`."""
    var starts: Integers
    """`[count]`, the place of each image's first row in its pages."""
    var table: Integers
    """`[count, columns]`."""
    var columns: Int

    def check(self, num_rows: Int, num_pages: Int) raises:
        """Refuses what would be read or written beyond rows, table or pool."""
        if self.row_offsets.unsafe_load(0) != 0 or (
            Int(self.row_offsets.unsafe_load(self.count)) != num_rows
        ):
            raise Error("the images don't cover the rows of keys and values")
        for image in range(self.count):
            var first = Int(self.row_offsets.unsafe_load(image))
            var end = Int(self.row_offsets.unsafe_load(image + 1))
            if first > end:
                raise Error("the images' offsets decrease")
            var start = Int(self.starts.unsafe_load(image))
            var used = ceildiv(start + end - first, PAGE)
            if used > self.columns:
                raise Error("an image has more rows than its pages hold")
            for column in range(start // PAGE, used):
                var page = self.table.unsafe_load(image * self.columns + column)
                if Int(page) >= num_pages:
                    raise Error("an image has a page that the pool lacks")


def store[
    dtype: DType
](pages: Pages[dtype], images: Images, keys: Floats, values: Floats):
    """Writes rows that have been checked.

    Args:
        pages: Where keys and values go, rounded to their type.
        images: Which rows go where.
        keys: `[rows, kv heads, head dim]`.
        values: Of the same shape.
    """
    var width = pages.row_width()
    for image in range(images.count):
        var first = Int(images.row_offsets.unsafe_load(image))
        var count = Int(images.row_offsets.unsafe_load(image + 1)) - first
        var start = Int(images.starts.unsafe_load(image))

        def work(task: Int) {imm}:
            var begin = task * _ROWS_PER_TASK
            for i in range(begin, min(count, begin + _ROWS_PER_TASK)):
                var place = start + i
                var page = Int(
                    images.table.unsafe_load(image * images.columns + place // PAGE)
                )
                var offset = place % PAGE * width
                var source = (first + i) * width
                _copy(
                    keys.unsafe_offset(source),
                    pages.keys(page).unsafe_offset(offset),
                    width,
                )
                _copy(
                    values.unsafe_offset(source),
                    pages.values(page).unsafe_offset(offset),
                    width,
                )

        sync_parallelize(work, ceildiv(count, _ROWS_PER_TASK))


@always_inline
def _copy[
    dtype: DType
](source: Floats, target: Pointer[Scalar[dtype], MutUntrackedOrigin], count: Int):
    for i in range(0, count, 8):
        target.unsafe_store(i, source.unsafe_load[width=8](i).cast[dtype]())
