"""Matrix-vector product: a single token times columns, one column after the other.

With a single token the product waits for memory. A core that reads one contiguous range
gets it a third faster than one that reads sixteen columns side by side.
"""

from std.math import fma
from std.memory import unsafe_stack_allocation

from .quantize import REORDERED_BYTES, SCALE
from .prefetch import prefetch_far, prefetch_near
from .formats import GemvFormat
from .simd import COLUMNS, RECORD_BYTES, UNROLL, BytePointer, FloatPointer, load_float
from .matmul import Activations, Matrix, store_products

comptime _MAX_GEMV_SUPER_BLOCKS = 64
"""Most super-blocks of a token that stay in the L1 cache while columns stream past."""


def uses_gemv(activations: Activations) -> Bool:
    """Returns True if reading column by column is faster."""
    return (
        activations.tokens == 1 and activations.super_blocks <= _MAX_GEMV_SUPER_BLOCKS
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


@always_inline
def _dot_column[
    Format: GemvFormat, simd_width: Int
](activations: Activations, column: BytePointer) -> Float32:
    var total = Float32(0)
    var unrolled = activations.super_blocks // UNROLL * UNROLL
    for super_block in range(0, unrolled, UNROLL):
        prefetch_far[UNROLL * Format.SUPER_BLOCK_BYTES](
            column.unsafe_offset(
                super_block * Format.SUPER_BLOCK_BYTES + Format.PREFETCH_DISTANCE
            )
        )
        prefetch_near[UNROLL * Format.SUPER_BLOCK_BYTES](
            column.unsafe_offset((super_block + UNROLL) * Format.SUPER_BLOCK_BYTES)
        )
        total = _add_super_blocks[Format, UNROLL, simd_width](
            total, activations, column, super_block
        )
    comptime for remainder in range(1, UNROLL):
        if activations.super_blocks - unrolled == remainder:
            total = _add_super_blocks[Format, remainder, simd_width](
                total, activations, column, unrolled
            )
    return total


@always_inline
def _add_super_blocks[
    Format: GemvFormat, count: Int, simd_width: Int
](
    total_before: Float32,
    activations: Activations,
    column: BytePointer,
    super_block: Int,
) -> Float32:
    """Adds dot products of super-blocks to a sum, in the same order as the other
    kernels."""
    var records = activations.records.unsafe_offset(super_block * RECORD_BYTES)
    var products = Format.dot_super_blocks[count, simd_width](
        column.unsafe_offset(super_block * Format.SUPER_BLOCK_BYTES),
        records,
        activations.reordered.unsafe_offset(super_block // UNROLL * REORDERED_BYTES),
    )
    var total = total_before
    comptime for i in range(count):
        var scale = load_float(records.unsafe_offset(i * RECORD_BYTES + SCALE))
        total = fma(products[i], scale, total)
    return total
