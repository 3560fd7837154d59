"""Attention among an image's patches without a mask; real patches come before padding.

Real patches attend to all patches, padding attends to real patches alone. Each block of
queries takes one block of keys at a time; their scores stay in the L1 cache, and the
sums are rescaled when a larger score turns up.

Source: FlashAttention (https://arxiv.org/abs/2205.14135), algorithm 1.
"""

from max.algorithm import sync_parallelize
from std.math import ceildiv
from std.memory import unsafe_stack_allocation
from std.memory.alloc import unsafe_alloc
from std.runtime import parallelism_level

from .simd import LOG2_E, LOWEST, FloatPointer, FloatVector, fill_floats
from .softmax import softmax_step
from .microkernel import (
    PANEL_WIDTH,
    STRIP_HEIGHT,
    multiply_panel,
    pack_transposed,
    pack_bfloat16_pairs,
    round_to_bfloat16,
)

comptime _BLOCK_KEYS = 240
"""Keys of a block: packed with their values, they take half of the L2 cache."""
comptime _TASK_QUERIES = 96
"""Approximate number of queries of a task."""


def patch_attention[
    simd_width: Int, use_bfloat16: Bool
](
    query: FloatPointer,
    key: FloatPointer,
    value: FloatPointer,
    result: FloatPointer,
    num_images: Int,
    num_patches: Int,
    num_real: Int,
    heads: Int,
    head_dim: Int,
    scale: Float32,
):
    """Computes the attention of all heads of all images.

    Parameters:
        simd_width: Values of a vector.
        use_bfloat16: Whether factors are rounded to bfloat16 and multiplied in pairs.

    Args:
        query: `[images, patches, heads * head_dim]`.
        key: Of the same shape.
        value: Of the same shape.
        result: Output, of the same shape. Without real patches, padding gets zeros.
        num_images: Number of images.
        num_patches: Patches of each image, with padding.
        num_real: Real patches of each image; they come first.
        heads: Number of heads.
        head_dim: Width of a head.
        scale: Factor of the scores.
    """
    comptime width = PANEL_WIDTH[simd_width]
    var stride = heads * head_dim
    var blocks = ceildiv(num_patches, _BLOCK_KEYS)
    var value_panels = ceildiv(head_dim, width)
    var value_width = value_panels * width
    var packed_keys = unsafe_alloc[Float32](
        blocks * _BLOCK_KEYS * head_dim, alignment=64
    )
    var packed_values = unsafe_alloc[Float32](
        blocks * _BLOCK_KEYS * value_width, alignment=64
    )

    var real_per_task = _patches_per_task[simd_width](num_real)
    var padding_per_task = _patches_per_task[simd_width](num_patches - num_real)
    var real_tasks = ceildiv(num_real, real_per_task)
    var tasks = real_tasks + ceildiv(num_patches - num_real, padding_per_task)
    for image in range(num_images):
        for head in range(heads):
            var start = image * num_patches * stride + head * head_dim

            def pack(block: Int) {imm}:
                var first = block * _BLOCK_KEYS
                var count = min(_BLOCK_KEYS, num_patches - first)
                var offset = start + first * stride
                for panel in range(ceildiv(count, width)):
                    var target = packed_keys.unsafe_offset(
                        (first + panel * width) * head_dim
                    )
                    pack_transposed[width](
                        key.unsafe_offset(offset + panel * width * stride),
                        stride,
                        min(width, count - panel * width),
                        head_dim,
                        scale * LOG2_E,
                        target,
                    )
                    comptime if use_bfloat16:
                        pack_bfloat16_pairs[width](target, head_dim)
                for panel in range(value_panels):
                    var column = panel * width
                    var target = packed_values.unsafe_offset(
                        first * value_width + column * _BLOCK_KEYS
                    )
                    _pack_values[width](
                        value.unsafe_offset(offset + column),
                        stride,
                        count,
                        min(width, head_dim - column),
                        target,
                    )
                    comptime if use_bfloat16:
                        pack_bfloat16_pairs[width](target, count)

            def work(task: Int) {imm}:
                var is_real = task < real_tasks
                var first = (
                    task * real_per_task if is_real else num_real
                    + (task - real_tasks) * padding_per_task
                )
                var end = min(num_real, first + real_per_task) if is_real else min(
                    num_patches, first + padding_per_task
                )
                _attend_query_block[simd_width, use_bfloat16](
                    query.unsafe_offset(start + first * stride),
                    packed_keys,
                    packed_values,
                    result.unsafe_offset(start + first * stride),
                    stride,
                    end - first,
                    num_patches if is_real else num_real,
                    head_dim,
                )

            sync_parallelize(pack, blocks)
            sync_parallelize(work, tasks)
    packed_keys.unsafe_free()
    packed_values.unsafe_free()


def _patches_per_task[simd_width: Int](num_patches: Int) -> Int:
    """Returns the patches of a task such that all cores get the same number of tasks.
    """
    var workers = parallelism_level()
    var tasks = max(1, ceildiv(ceildiv(num_patches, _TASK_QUERIES), workers) * workers)
    comptime strip_rows = STRIP_HEIGHT[simd_width]
    return max(1, ceildiv(ceildiv(num_patches, tasks), strip_rows)) * strip_rows


@always_inline
def _pack_values[
    width: Int
](values: FloatPointer, stride: Int, count: Int, columns: Int, panel: FloatPointer):
    """Packs columns of values as a panel `[count, width]`, padded with zeros."""
    for key in range(count):
        for column in range(0, width, 8):
            panel.unsafe_store(
                key * width + column,
                values.unsafe_load[width=8](key * stride + column) if column
                < columns else FloatVector[8](0),
            )


@no_inline
def _attend_query_block[
    simd_width: Int, use_bfloat16: Bool
](
    query: FloatPointer,
    packed_keys: FloatPointer,
    packed_values: FloatPointer,
    result: FloatPointer,
    stride: Int,
    num_queries: Int,
    num_keys: Int,
    head_dim: Int,
):
    """Computes the attention of a task's queries.

    Args:
        query: The first query; the next ones are `stride` apart.
        packed_keys: Keys of the head, by blocks and within them panels `[head_dim,
            width]`.
        packed_values: Values of the head, by blocks and within them panels
            `[_BLOCK_KEYS, width]`.
        result: Output, laid out as `query`.
        stride: Values from one patch to the next.
        num_queries: Number of queries.
        num_keys: Number of keys.
        head_dim: Width of a head, a multiple of `simd_width`.
    """
    comptime height = STRIP_HEIGHT[simd_width]
    comptime width = PANEL_WIDTH[simd_width]
    var panels = ceildiv(head_dim, width)
    var scores = unsafe_alloc[Float32](height * _BLOCK_KEYS, alignment=64)
    var maxima = unsafe_alloc[Float32](num_queries)
    var sums = unsafe_alloc[Float32](num_queries)
    var last_row = rebind[FloatPointer](
        unsafe_stack_allocation[PANEL_WIDTH[simd_width], Float32, alignment=64]()
    )
    # Vectors of successive patches lie pages of memory apart; these copies are
    # contiguous.
    var queries = unsafe_alloc[Float32](num_queries * head_dim, alignment=64)
    var output = unsafe_alloc[Float32](num_queries * head_dim, alignment=64)
    for row in range(num_queries):
        for d in range(0, head_dim, simd_width):
            queries.unsafe_store(
                row * head_dim + d,
                query.unsafe_load[width=simd_width](row * stride + d),
            )
        comptime if use_bfloat16:
            round_to_bfloat16[simd_width](
                queries.unsafe_offset(row * head_dim), head_dim
            )
    fill_floats(output, num_queries * head_dim, 0)
    fill_floats(maxima, num_queries, LOWEST)
    fill_floats(sums, num_queries, 0)

    for first in range(0, num_keys, _BLOCK_KEYS):
        var count = min(_BLOCK_KEYS, num_keys - first)
        var block_keys = packed_keys.unsafe_offset(first * head_dim)
        var block_values = packed_values.unsafe_offset(first * panels * width)
        for start in range(0, num_queries, height):
            var strip_rows = min(height, num_queries - start)
            for panel in range(ceildiv(count, width)):
                multiply_panel[simd_width, accumulate=False, use_bfloat16=use_bfloat16](
                    queries.unsafe_offset(start * head_dim),
                    head_dim,
                    strip_rows,
                    block_keys.unsafe_offset(panel * width * head_dim),
                    head_dim // 2 if use_bfloat16 else head_dim,
                    min(width, count - panel * width),
                    scores.unsafe_offset(panel * width),
                    _BLOCK_KEYS,
                )
            for row in range(strip_rows):
                softmax_step[simd_width, use_bfloat16](
                    scores.unsafe_offset(row * _BLOCK_KEYS),
                    count,
                    maxima.unsafe_offset(start + row),
                    sums.unsafe_offset(start + row),
                    output.unsafe_offset((start + row) * head_dim),
                    head_dim,
                )
            for panel in range(panels):
                var panel_values = block_values.unsafe_offset(
                    panel * width * _BLOCK_KEYS
                )
                var columns = min(width, head_dim - panel * width)
                var target = output.unsafe_offset(start * head_dim + panel * width)
                multiply_panel[simd_width, accumulate=True, use_bfloat16=use_bfloat16](
                    scores,
                    _BLOCK_KEYS,
                    strip_rows,
                    panel_values,
                    count // 2 if use_bfloat16 else count,
                    columns,
                    target,
                    head_dim,
                )
                comptime if use_bfloat16:
                    if count % 2 == 1:
                        _zero_partners[simd_width](
                            panel_values.unsafe_offset(count // 2 * width), last_row
                        )
                        multiply_panel[
                            simd_width, accumulate=True, use_bfloat16=use_bfloat16
                        ](
                            scores.unsafe_offset(count // 2),
                            _BLOCK_KEYS,
                            strip_rows,
                            last_row,
                            1,
                            columns,
                            target,
                            head_dim,
                        )
    for row in range(num_queries):
        var factor = 1 / sums.unsafe_load(row) if num_keys > 0 else Float32(0)
        for d in range(0, head_dim, simd_width):
            var vector = output.unsafe_load[width=simd_width](row * head_dim + d)
            result.unsafe_store(row * stride + d, vector * factor)
    queries.unsafe_free()
    output.unsafe_free()
    scores.unsafe_free()
    maxima.unsafe_free()
    sums.unsafe_free()


@always_inline
def _zero_partners[simd_width: Int](pairs: FloatPointer, target: FloatPointer):
    """Copies a row of bfloat16 pairs of a panel, with zeros for the second value of
    each.

    If the number of keys is odd, the last key is paired with one that isn't attended
    to, and whose values may not be finite.
    """
    for column in range(0, PANEL_WIDTH[simd_width], simd_width):
        var bits = pairs.unsafe_load[width=simd_width](column).to_bits[DType.uint32]()
        target.unsafe_store(column, FloatVector[simd_width](from_bits=bits & 0xFFFF))
