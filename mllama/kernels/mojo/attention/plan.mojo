"""The plan of a batch: groups segments that read the same keys, and splits the work
into tasks."""

from std.math import ceildiv
from std.runtime import parallelism_level

from .pages import PAGE_SIZE
from .split_k import split_size

comptime MAX_DECODE_VECTORS = 40
"""Most query vectors of a KV head for which keys are streamed and not packed.

Ten tokens of four heads to a KV head: a token with nine guesses, or ten requests about
one image."""
comptime _MAX_PREFILL_VECTORS = 768
"""Most query vectors of a prefill task: their sums stay in the L2 cache."""
comptime _TASKS_PER_CORE = 4

comptime IndexPointer = Pointer[UInt32, MutUntrackedOrigin]


@fieldwise_init
struct Segments(Copyable, Movable):
    """Ranges of query tokens, and the keys that each range reads."""

    var count: Int
    var token_offsets: IndexPointer
    """`[count + 1]`."""
    var key_offsets: IndexPointer
    """`[count + 1]`."""
    var table: IndexPointer
    """`[count, columns]`, the page table of each segment."""
    var columns: Int
    var causal: Bool
    """Whether a segment's last token sees all its keys and each token before it one
    less; otherwise all tokens see all keys."""

    def num_keys(self, index: Int) -> Int:
        """Returns the number of keys that a segment reads."""
        return Int(self.key_offsets.unsafe_load(index + 1)) - Int(
            self.key_offsets.unsafe_load(index)
        )

    def num_tokens(self, index: Int) -> Int:
        """Returns the number of query tokens of a segment."""
        return Int(self.token_offsets.unsafe_load(index + 1)) - Int(
            self.token_offsets.unsafe_load(index)
        )

    def pages(self, index: Int) -> IndexPointer:
        """Returns the page table of a segment."""
        return self.table.unsafe_offset(index * self.columns)

    def check(self, num_tokens: Int, num_pages: Int) raises:
        """Checks that nothing is read beyond the query tokens, the page table or the
        cache."""
        if self.token_offsets.unsafe_load(0) != 0 or (
            Int(self.token_offsets.unsafe_load(self.count)) != num_tokens
        ):
            raise Error("the segments' offsets don't cover the query tokens")
        for index in range(self.count):
            if self.token_offsets.unsafe_load(index) > self.token_offsets.unsafe_load(
                index + 1
            ):
                raise Error("the segments' offsets decrease")
            var used = ceildiv(self.num_keys(index), PAGE_SIZE)
            if self.num_keys(index) < 0 or used > self.columns:
                raise Error("a segment reads more keys than its page table covers")
            if self.causal and self.num_keys(index) < self.num_tokens(index):
                raise Error("a causal segment has more tokens than keys")
            for column in range(used):
                if Int(self.pages(index).unsafe_load(column)) >= num_pages:
                    raise Error(
                        "a segment's page table names a page beyond the cache"
                    )

    def read_same_keys(self, a: Int, b: Int) -> Bool:
        """Returns True if all tokens of two segments read the same keys."""
        if self.causal and a != b:
            return False
        if self.num_keys(a) != self.num_keys(b):
            return False
        for column in range(ceildiv(self.num_keys(a), PAGE_SIZE)):
            if self.pages(a).unsafe_load(column) != self.pages(b).unsafe_load(column):
                return False
        return True


struct TaskKind:
    """The kinds of tasks."""

    comptime NO_KEYS = 0
    """Tokens `first` to `end` of the group have no keys: their output is zeros."""
    comptime ONE_KEY = 1
    """Tokens `first` to `end` of the group have one key: their output is its value."""
    comptime DECODE = 2
    """Keys `first` to `end`, all heads, for all tokens of the group (split-K)."""
    comptime PREFILL = 3
    """All keys of one head for tokens `first` to `end` of the group."""


@fieldwise_init
struct Task(Copyable, Movable):
    """A unit of work for one core."""

    var kind: Int
    var group: Int
    var first: Int
    var end: Int
    var head: Int
    var split_offset: Int
    """Offset of a decode task's partial result among those of all tasks."""


@fieldwise_init
struct Group(Copyable, Movable):
    """Segments that read the same keys."""

    var segment: Int
    """The first of these segments."""
    var first_token: Int
    """Index of the group's first token in the plan's list of tokens."""
    var num_tokens: Int
    var num_keys: Int
    var split_offset: Int
    """Offset of the first of the `num_splits` partial results."""
    var num_splits: Int


def _is_decode(segments: Segments, group: Group, gqa_ratio: Int) -> Bool:
    """Returns True if a group's keys are streamed, which needs tokens that see the same
    keys."""
    if segments.causal and group.num_tokens > 1:
        return False
    return group.num_tokens * gqa_ratio <= MAX_DECODE_VECTORS


struct Plan(Movable):
    """The groups of a batch, and their tasks."""

    var tokens: List[Int]
    """The query tokens, group by group."""
    var groups: List[Group]
    var tasks: List[Task]
    var split_floats: Int
    """Size of all partial results of decode tasks."""

    def __init__(
        out self, segments: Segments, heads: Int, kv_heads: Int, head_dim: Int
    ):
        """Plans a batch that has been checked."""
        self.tokens = List[Int]()
        self.groups = List[Group]()
        self.tasks = List[Task]()
        self.split_floats = 0
        self._group_segments(segments)
        var gqa_ratio = heads // kv_heads
        var workers = parallelism_level()
        var decode_pages = 0
        for group in self.groups:
            if _is_decode(segments, group, gqa_ratio) and group.num_keys > 1:
                decode_pages += ceildiv(group.num_keys, PAGE_SIZE)
        var pages_per_task = max(1, ceildiv(decode_pages, workers * _TASKS_PER_CORE))
        for index in range(len(self.groups)):
            var tokens = self.groups[index].num_tokens
            var keys = self.groups[index].num_keys
            if tokens == 0:
                continue
            if keys <= 1:
                var kind = TaskKind.NO_KEYS if keys == 0 else TaskKind.ONE_KEY
                self._add_tasks(kind, index, tokens, ceildiv(tokens, 64), 1)
            elif _is_decode(segments, self.groups[index], gqa_ratio):
                var size = split_size(kv_heads, tokens * gqa_ratio, head_dim)
                var pages = ceildiv(keys, PAGE_SIZE)
                var count = ceildiv(pages, pages_per_task)
                self.groups[index].split_offset = self.split_floats
                self.groups[index].num_splits = count
                for i in range(count):
                    self.tasks.append(
                        Task(
                            TaskKind.DECODE,
                            index,
                            pages * i // count * PAGE_SIZE,
                            min(keys, pages * (i + 1) // count * PAGE_SIZE),
                            0,
                            self.split_floats,
                        )
                    )
                    self.split_floats += size
            else:
                # So few tasks balance only if their number is a multiple of the cores.
                var count = ceildiv(tokens * gqa_ratio, _MAX_PREFILL_VECTORS)
                while (
                    count < tokens
                    and count * kv_heads < workers * _TASKS_PER_CORE
                    and count * kv_heads % workers != 0
                ):
                    count += 1
                self._add_tasks(TaskKind.PREFILL, index, tokens, count, kv_heads)

    def _add_tasks(
        mut self,
        kind: Int,
        group: Int,
        tokens: Int,
        count: Int,
        heads: Int,
    ):
        """Adds tasks that split a group's tokens evenly, for each head."""
        for head in range(heads):
            for i in range(count):
                self.tasks.append(
                    Task(
                        kind,
                        group,
                        tokens * i // count,
                        tokens * (i + 1) // count,
                        head,
                        0,
                    )
                )

    def _group_segments(mut self, segments: Segments):
        """Groups the segments that read the same keys."""
        var grouped = List[Bool]()
        for _ in range(segments.count):
            grouped.append(False)
        for first in range(segments.count):
            if grouped[first]:
                continue
            var start = len(self.tokens)
            for index in range(first, segments.count):
                if grouped[index] or not segments.read_same_keys(first, index):
                    continue
                grouped[index] = True
                for token in range(
                    Int(segments.token_offsets.unsafe_load(index)),
                    Int(segments.token_offsets.unsafe_load(index + 1)),
                ):
                    self.tokens.append(token)
            self.groups.append(
                Group(
                    first,
                    start,
                    len(self.tokens) - start,
                    segments.num_keys(first),
                    0,
                    0,
                )
            )
