"""A batch's attention: planned, shared among the cores, merged."""

from max.algorithm import sync_parallelize
from std.memory.alloc import unsafe_alloc

from .few import attend_few
from .lanes import fill_row, load
from .many import attend_many
from .pages import Pages, Queries
from .partials import merge
from .plan import Kind, Plan, Segments


def attend[
    dtype: DType, head_dim: Int, lanes: Int
](pages: Pages[dtype], queries: Queries, segments: Segments):
    """Writes the attended rows of a batch that has been checked."""
    var kv_heads = pages.kv_heads
    var share = queries.heads // kv_heads
    var plan = Plan(segments, queries.heads, kv_heads, head_dim)
    var partials = unsafe_alloc[Float32](
        max(8, plan.partial_floats), alignment=64
    )
    var rows = plan.rows.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()

    def work(index: Int) {imm}:
        ref task = plan.tasks[index]
        ref group = plan.groups[task.group]
        var table = segments.pages(group.segment)
        var first = rows.unsafe_offset(group.first_row)
        if task.kind == Kind.MANY:
            var seen = group.num_keys
            if segments.causal:
                seen += task.first + 1 - group.num_rows
            attend_many[dtype, head_dim, lanes](
                pages,
                queries,
                first.unsafe_offset(task.first),
                task.end - task.first,
                table,
                seen,
                segments.causal,
                task.head,
            )
        elif task.kind == Kind.FEW:
            attend_few[dtype, head_dim, lanes](
                pages,
                queries,
                first,
                group.num_rows,
                table,
                task.first,
                task.end,
                partials.unsafe_offset(task.partial),
            )
        else:
            for i in range(task.first, task.end):
                for head in range(queries.heads):
                    var target = queries.result.unsafe_offset(
                        queries.place(first.unsafe_load(i), head)
                    )
                    if task.kind == Kind.NO_KEYS:
                        fill_row(target, head_dim, 0)
                        continue
                    var page = Int(table.unsafe_load(0))
                    var source = pages.values(page).unsafe_offset(
                        head // share * head_dim
                    )
                    for d in range(0, head_dim, 8):
                        target.unsafe_store(d, load[8](source, d))

    def finish(index: Int) {imm}:
        ref group = plan.groups[index]
        if group.num_partials == 0:
            return
        for i in range(group.num_rows):
            merge(
                queries,
                kv_heads,
                group.num_rows * share,
                partials.unsafe_offset(group.partials),
                group.num_partials,
                i,
                rows.unsafe_load(group.first_row + i),
            )

    sync_parallelize(work, len(plan.tasks))
    sync_parallelize(finish, len(plan.groups))
    partials.unsafe_free()
    _ = plan^
