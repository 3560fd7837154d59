"""Who does what: segments that read the same keys grouped, and shared among the cores."""

from std.math import ceildiv
from std.runtime import parallelism_level

from .pages import PAGE
from .partials import partial_size

comptime FEW_VECTORS = 16
"""Query vectors of a kv head up to which keys are streamed and not packed."""
comptime _MOST_VECTORS = 768
"""Query vectors of a task that packs keys: their sums stay in the second cache."""
comptime _TASKS_PER_CORE = 4

comptime Integers = Pointer[UInt32, MutUntrackedOrigin]


@fieldwise_init
struct Segments(Copyable, Movable):
    """Ranges of query rows and the keys that each reads."""

    var count: Int
    var row_offsets: Integers
    """`[count + 1]`."""
    var key_offsets: Integers
    """`[count + 1]`."""
    var table: Integers
    """`[count, columns]`, the pages of each segment."""
    var columns: Int
    var causal: Bool
    """Whether a segment's last row sees all its keys and each row before it one less;
    else all see all."""

    def num_keys(self, index: Int) -> Int:
        """Keys that a segment reads."""
        return Int(self.key_offsets.unsafe_load(index + 1)) - Int(
            self.key_offsets.unsafe_load(index)
        )

    def num_rows(self, index: Int) -> Int:
        """Query rows of a segment."""
        return Int(self.row_offsets.unsafe_load(index + 1)) - Int(
            self.row_offsets.unsafe_load(index)
        )

    def pages(self, index: Int) -> Integers:
        """Pages that a segment reads."""
        return self.table.unsafe_offset(index * self.columns)

    def check(self, num_rows: Int, num_pages: Int) raises:
        """Refuses what would be read from beyond rows, table or pool."""
        if self.row_offsets.unsafe_load(0) != 0 or (
            Int(self.row_offsets.unsafe_load(self.count)) != num_rows
        ):
            raise Error("the segments don't cover the query rows")
        for index in range(self.count):
            if self.row_offsets.unsafe_load(
                index
            ) > self.row_offsets.unsafe_load(index + 1):
                raise Error("the segments' offsets decrease")
            var used = ceildiv(self.num_keys(index), PAGE)
            if self.num_keys(index) < 0 or used > self.columns:
                raise Error("a segment reads more keys than its pages hold")
            if self.causal and self.num_keys(index) < self.num_rows(index):
                raise Error("a segment has more rows than keys")
            for column in range(used):
                if Int(self.pages(index).unsafe_load(column)) >= num_pages:
                    raise Error("a segment reads a page that the pool lacks")

    def read_the_same(self, a: Int, b: Int) -> Bool:
        """Whether all rows of two segments read the same keys."""
        if self.causal and a != b:
            return False
        if self.num_keys(a) != self.num_keys(b):
            return False
        for column in range(ceildiv(self.num_keys(a), PAGE)):
            if self.pages(a).unsafe_load(column) != self.pages(b).unsafe_load(
                column
            ):
                return False
        return True


struct Kind:
    """Kinds of tasks."""

    comptime NO_KEYS = 0
    """Rows `first` to `end` of the group become zeros."""
    comptime ONE_KEY = 1
    """Rows `first` to `end` of the group become the key's value."""
    comptime FEW = 2
    """Keys `first` to `end` for all rows of the group."""
    comptime MANY = 3
    """All keys of a head for rows `first` to `end` of the group."""


@fieldwise_init
struct Task(Copyable, Movable):
    """A piece of work for one core."""

    var kind: Int
    var group: Int
    var first: Int
    var end: Int
    var head: Int
    var partial: Int
    """Where among the floats of all partial outcomes its own begin."""


@fieldwise_init
struct Group(Copyable, Movable):
    """Segments that read the same keys."""

    var segment: Int
    """The first of them."""
    var first_row: Int
    """Where its rows begin in the list of rows."""
    var num_rows: Int
    var num_keys: Int
    var partials: Int
    """Where its tasks' partial outcomes begin, and how many there are."""
    var num_partials: Int


def _are_few(segments: Segments, group: Group, share: Int) -> Bool:
    """Whether a group's keys are streamed, which takes rows that see the same."""
    if segments.causal and group.num_rows > 1:
        return False
    return group.num_rows * share <= FEW_VECTORS


struct Plan(Movable):
    """The groups of a batch, and their tasks."""

    var rows: List[Int]
    """The query rows, group by group."""
    var groups: List[Group]
    var tasks: List[Task]
    var partial_floats: Int
    """Room for the outcomes of all tasks of kind FEW."""

    def __init__(out self, segments: Segments, heads: Int, kv_heads: Int, head_dim: Int):
        """Plans a batch that has been checked."""
        self.rows = List[Int]()
        self.groups = List[Group]()
        self.tasks = List[Task]()
        self.partial_floats = 0
        self._group(segments)
        var share = heads // kv_heads
        var workers = parallelism_level()
        var few_pages = 0
        for group in self.groups:
            if _are_few(segments, group, share) and group.num_keys > 1:
                few_pages += ceildiv(group.num_keys, PAGE)
        var pages_per_task = max(
            1, ceildiv(few_pages, workers * _TASKS_PER_CORE)
        )
        for index in range(len(self.groups)):
            var rows = self.groups[index].num_rows
            var keys = self.groups[index].num_keys
            if rows == 0:
                continue
            if keys <= 1:
                var kind = Kind.NO_KEYS if keys == 0 else Kind.ONE_KEY
                self._share(kind, index, rows, ceildiv(rows, 64), 1, 0)
            elif _are_few(segments, self.groups[index], share):
                var size = partial_size(kv_heads, rows * share, head_dim)
                var pages = ceildiv(keys, PAGE)
                var count = ceildiv(pages, pages_per_task)
                self.groups[index].partials = self.partial_floats
                self.groups[index].num_partials = count
                for i in range(count):
                    self.tasks.append(
                        Task(
                            Kind.FEW,
                            index,
                            pages * i // count * PAGE,
                            min(keys, pages * (i + 1) // count * PAGE),
                            0,
                            self.partial_floats,
                        )
                    )
                    self.partial_floats += size
            else:
                # As few tasks as there are, they should be a multiple of the cores.
                var count = ceildiv(rows * share, _MOST_VECTORS)
                while (
                    count < rows
                    and count * kv_heads < workers * _TASKS_PER_CORE
                    and count * kv_heads % workers != 0
                ):
                    count += 1
                self._share(Kind.MANY, index, rows, count, kv_heads, 0)

    def _share(
        mut self, kind: Int, group: Int, rows: Int, count: Int, heads: Int, partial: Int
    ):
        """Adds tasks that share a group's rows, for each head."""
        for head in range(heads):
            for i in range(count):
                self.tasks.append(
                    Task(
                        kind,
                        group,
                        rows * i // count,
                        rows * (i + 1) // count,
                        head,
                        partial,
                    )
                )

    def _group(mut self, segments: Segments):
        """Finds the segments that read the same keys."""
        var taken = List[Bool]()
        for _ in range(segments.count):
            taken.append(False)
        for first in range(segments.count):
            if taken[first]:
                continue
            var start = len(self.rows)
            for index in range(first, segments.count):
                if taken[index] or not segments.read_the_same(first, index):
                    continue
                taken[index] = True
                for row in range(
                    Int(segments.row_offsets.unsafe_load(index)),
                    Int(segments.row_offsets.unsafe_load(index + 1)),
                ):
                    self.rows.append(row)
            self.groups.append(
                Group(
                    first,
                    start,
                    len(self.rows) - start,
                    segments.num_keys(first),
                    0,
                    0,
                )
            )
