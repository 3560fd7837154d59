"""Attention of a batch to pages: plans tasks, runs them on all cores, merges their
results."""

from max.algorithm import sync_parallelize
from std.memory.alloc import unsafe_alloc

from .decode import attention_decode
from .simd import fill_floats, load
from .prefill import attention_prefill
from .pages import HEAD_STRIDE, Pages, Queries, vector_scale
from .split_k import merge_splits
from .plan import TaskKind, Plan, Segments


def paged_attention[
    dtype: DType, head_dim: Int, simd_width: Int
](pages: Pages[dtype], queries: Queries, segments: Segments):
    """Writes the attention output of a batch that has been checked."""
    var kv_heads = pages.kv_heads
    var gqa_ratio = queries.heads // kv_heads
    var plan = Plan(segments, queries.heads, kv_heads, head_dim)
    var splits = unsafe_alloc[Float32](max(8, plan.split_floats), alignment=64)
    var tokens = plan.tokens.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()

    def work(index: Int) {imm}:
        ref task = plan.tasks[index]
        ref group = plan.groups[task.group]
        var table = segments.pages(group.segment)
        var first = tokens.unsafe_offset(group.first_token)
        if task.kind == TaskKind.PREFILL:
            var visible_keys = group.num_keys
            if segments.causal:
                visible_keys += task.first + 1 - group.num_tokens
            attention_prefill[dtype, head_dim, simd_width](
                pages,
                queries,
                first.unsafe_offset(task.first),
                task.end - task.first,
                table,
                visible_keys,
                segments.causal,
                task.head,
            )
        elif task.kind == TaskKind.DECODE:
            attention_decode[dtype, head_dim, simd_width](
                pages,
                queries,
                first,
                group.num_tokens,
                table,
                task.first,
                task.end,
                splits.unsafe_offset(task.split_offset),
            )
        else:
            for i in range(task.first, task.end):
                for head in range(queries.heads):
                    var target = queries.result.unsafe_offset(
                        queries.offset(first.unsafe_load(i), head)
                    )
                    if task.kind == TaskKind.NO_KEYS:
                        fill_floats(target, head_dim, 0)
                        continue
                    var page = Int(table.unsafe_load(0))
                    var source = pages.values(page).unsafe_offset(
                        head // gqa_ratio * HEAD_STRIDE[dtype, head_dim]
                    )
                    var scale = vector_scale[dtype, head_dim](source)
                    for d in range(0, head_dim, 8):
                        target.unsafe_store(d, load[8](source, d) * scale)

    def finish(index: Int) {imm}:
        ref group = plan.groups[index]
        if group.num_splits == 0:
            return
        for i in range(group.num_tokens):
            merge_splits(
                queries,
                kv_heads,
                group.num_tokens * gqa_ratio,
                splits.unsafe_offset(group.split_offset),
                group.num_splits,
                i,
                tokens.unsafe_load(group.first_token + i),
            )

    sync_parallelize(work, len(plan.tasks))
    sync_parallelize(finish, len(plan.groups))
    splits.unsafe_free()
    _ = plan^
