"""Matrix-vector product: a single token times columns, one column after the other.

With a single token the product waits for memory. A core that reads one contiguous range
gets it a third faster than one that reads sixteen columns side by side.
"""

from std.math import fma
from std.memory import unsafe_stack_allocation

from .quantize import GROUPED_SUMS_BYTES, SCALE
from .prefetch import prefetch_far, prefetch_near
from .formats import GemvFormat
from .super_blocks import MAX_GEMV_SUPER_BLOCKS, SCALES_BYTES
from .simd import (
    COLUMNS,
    RECORD_BYTES,
    SUPER_BLOCK,
    UNROLL,
    BytePointer,
    FloatPointer,
    Sums,
    load_float,
    load_vector,
    store_vector,
)
from .matmul import Activations, Matrix, store_products

comptime _SCALES_AHEAD = 4096
"""Bytes by which data is prefetched earlier where a column's scales are read before its
levels, as measured."""
comptime _NEAR_SUPER_BLOCKS = 16
"""Most super-blocks from the one that is read to the one that is prefetched into L1,
where the token stays as well."""


def uses_gemv(activations: Activations) -> Bool:
    """Returns True if reading column by column is faster."""
    return (
        activations.tokens == 1 and activations.super_blocks <= MAX_GEMV_SUPER_BLOCKS
    )


def gemv_group[
    Format: GemvFormat, simd_width: Int, gated: Bool
](activations: Activations, matrix: Matrix, group: Int):
    """Multiplies the only token with sixteen columns, with the same result as
    `multiply_group`."""
    var totals = rebind[FloatPointer](
        unsafe_stack_allocation[COLUMNS, Float32, alignment=64]()
    )
    var first = group * COLUMNS
    var count = min(COLUMNS, matrix.columns - first)
    for i in range(count):
        var column = matrix.blocks.unsafe_offset((first + i) * matrix.stride)
        totals.unsafe_store(i, _dot_column[Format, simd_width](activations, column))
    store_products[simd_width, gated](matrix, 0, first, count, totals)


@fieldwise_init
struct _Scratch(Copyable, ImplicitlyCopyable, Movable):
    """Memory for the steps of a column's product."""

    var scales: BytePointer
    """Scales, as the format has unpacked them."""
    var sums: BytePointer
    """What `dot` has returned for each super-block."""


@always_inline
def _dot_column[
    Format: GemvFormat, simd_width: Int
](activations: Activations, column: BytePointer) -> Float32:
    """Returns the product of the only token with a column.

    There are three steps: unpacking scales, multiplying levels and adding up vectors.
    With vectors of 8 a super-block takes too many instructions for a core to overlap
    them. The result is the same in either order.
    """
    comptime places = UNROLL if simd_width == 16 else MAX_GEMV_SUPER_BLOCKS
    var scratch = _Scratch(
        rebind[BytePointer](
            unsafe_stack_allocation[SCALES_BYTES, UInt8, alignment=64]()
        ),
        rebind[BytePointer](
            unsafe_stack_allocation[places * 4 * simd_width, UInt8, alignment=64]()
        ),
    )
    comptime if simd_width == 16:
        return _dot_by_groups[Format, simd_width](activations, column, scratch)
    else:
        return _dot_by_steps[Format, simd_width](activations, column, scratch)


@always_inline
def _dot_by_groups[
    Format: GemvFormat, simd_width: Int
](
    activations: Activations, column: BytePointer, scratch: _Scratch
) -> Float32:
    """Takes all steps for four super-blocks, then for the next."""
    comptime size = UNROLL * Format.SUPER_BLOCK_BYTES
    var groups = activations.super_blocks // UNROLL
    var total = Float32(0)
    for group in range(groups):
        var blocks = column.unsafe_offset(group * size)
        prefetch_far[size](blocks.unsafe_offset(Format.PREFETCH_DISTANCE))
        prefetch_near[size](blocks.unsafe_offset(size))
        total = _add_group[Format, UNROLL, simd_width](
            total, activations, group, blocks, scratch
        )
    comptime for count in range(1, UNROLL):
        if activations.super_blocks % UNROLL == count:
            total = _add_group[Format, count, simd_width](
                total, activations, groups, column.unsafe_offset(groups * size), scratch
            )
    return total


@always_inline
def _add_group[
    Format: GemvFormat, count: Int, simd_width: Int
](
    total: Float32,
    activations: Activations,
    group: Int,
    blocks: BytePointer,
    scratch: _Scratch,
) -> Float32:
    """Adds the dot products of up to four super-blocks to a sum."""
    Format.unpack_scales[count](blocks, scratch.scales, 0)
    comptime for i in range(count):
        _dot_super_block[Format, simd_width](
            activations,
            group * UNROLL + i,
            blocks.unsafe_offset(i * Format.SUPER_BLOCK_BYTES),
            scratch,
            i,
        )
    return _add_products[Format, count, simd_width](
        total, activations, group, scratch, 0
    )


@always_inline
def _dot_by_steps[
    Format: GemvFormat, simd_width: Int
](
    activations: Activations, column: BytePointer, scratch: _Scratch
) -> Float32:
    """Takes a step for all super-blocks, then the next."""
    comptime size = Format.SUPER_BLOCK_BYTES
    var super_blocks = activations.super_blocks
    var groups = super_blocks // UNROLL
    var remaining = super_blocks % UNROLL
    for group in range(groups):
        Format.unpack_scales[UNROLL](
            column.unsafe_offset(group * UNROLL * size), scratch.scales, group
        )
    if remaining:
        _unpack_last_scales[Format](
            column.unsafe_offset(groups * UNROLL * size),
            remaining,
            scratch.scales,
            groups,
        )
    var near = min(super_blocks, _NEAR_SUPER_BLOCKS)
    for i in range(super_blocks):
        var block = column.unsafe_offset(i * size)
        # All of the next column's scales are read before its levels.
        prefetch_far[size](
            block.unsafe_offset(Format.PREFETCH_DISTANCE + _SCALES_AHEAD)
        )
        prefetch_near[size](block.unsafe_offset(near * size))
        _dot_super_block[Format, simd_width](activations, i, block, scratch, i)
    var total = Float32(0)
    for group in range(groups):
        total = _add_products[Format, UNROLL, simd_width](
            total, activations, group, scratch, group
        )
    if remaining:
        total = _add_last_products[Format, simd_width](
            total, activations, remaining, groups, scratch
        )
    return total


@always_inline
def _dot_super_block[
    Format: GemvFormat, simd_width: Int
](
    activations: Activations,
    index: Int,
    block: BytePointer,
    scratch: _Scratch,
    place: Int,
):
    """Stores a super-block's vector of sums, with scales at the same place of the
    scratch memory.

    Args:
        activations: The token.
        index: Index of the super-block in the column.
        block: The super-block.
        scratch: Scales, and the output.
        place: Index of the super-block in the scratch memory.
    """
    var sums = Format.dot[simd_width](
        block,
        scratch.scales.unsafe_offset(place * Format.SCALES_STRIDE),
        activations.records.unsafe_offset(index * RECORD_BYTES),
        activations.reordered.unsafe_offset(index * SUPER_BLOCK),
    )
    store_vector(scratch.sums.unsafe_offset(place * 4 * simd_width), sums)


@always_inline
def _add_products[
    Format: GemvFormat, count: Int, simd_width: Int
](
    total_before: Float32,
    activations: Activations,
    group: Int,
    scratch: _Scratch,
    scratch_group: Int,
) -> Float32:
    """Adds the dot products of up to four super-blocks to a sum, in the same order as
    the other kernels.

    Args:
        total_before: The sum.
        activations: The token.
        group: Which four super-blocks of the column.
        scratch: Their scales and vectors of sums.
        scratch_group: Which four of the scratch memory.
    """
    var vectors = Array[Sums[simd_width], UNROLL](fill=Sums[simd_width](0))
    comptime for i in range(count):
        vectors[i] = load_vector[DType.int32, simd_width](
            scratch.sums.unsafe_offset((scratch_group * UNROLL + i) * 4 * simd_width)
        )
    var products = Format.dot_products[simd_width](
        scratch.scales,
        scratch_group,
        vectors,
        activations.grouped_sums.unsafe_offset(group * GROUPED_SUMS_BYTES),
    )
    var records = activations.records.unsafe_offset(group * UNROLL * RECORD_BYTES)
    var total = total_before
    comptime for i in range(count):
        var scale = load_float(records.unsafe_offset(i * RECORD_BYTES + SCALE))
        total = fma(products[i], scale, total)
    return total


# This and the next function serve the remainder alone. Inlined, they would take
# registers from the loops.
@no_inline
def _unpack_last_scales[
    Format: GemvFormat
](blocks: BytePointer, remaining: Int, scales: BytePointer, group: Int):
    """Unpacks the scales of fewer than four super-blocks."""
    comptime for count in range(1, UNROLL):
        if remaining == count:
            Format.unpack_scales[count](blocks, scales, group)


@no_inline
def _add_last_products[
    Format: GemvFormat, simd_width: Int
](
    total: Float32,
    activations: Activations,
    remaining: Int,
    group: Int,
    scratch: _Scratch,
) -> Float32:
    """Adds the dot products of fewer than four super-blocks to a sum."""
    comptime for count in range(1, UNROLL):
        if remaining == count:
            return _add_products[Format, count, simd_width](
                total, activations, group, scratch, group
            )
    return total
