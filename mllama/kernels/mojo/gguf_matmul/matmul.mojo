"""Multiplies tokens with groups of sixteen columns of a matrix of GGUF blocks."""

from max.algorithm import sync_parallelize
from std.math import ceildiv, exp
from std.memory import unsafe_stack_allocation
from std.memory.alloc import unsafe_alloc

from .quantize import GROUPED_SUMS_BYTES, group_sums, quantize_record, reorder_values
from .prefetch import PREFETCH_TO_L1
from .formats import TILE_BYTES, BlockFormat
from .simd import (
    COLUMNS,
    RECORD_BYTES,
    SUPER_BLOCK,
    UNROLL,
    BytePointer,
    FloatPointer,
    Simd,
)

comptime _TOKENS_PER_BLOCK = 256
"""Tokens for which a tile is unpacked: 256 values of each, and their totals, fit the L2
cache."""
comptime _PREFETCH_DISTANCE = 4 if PREFETCH_TO_L1 else 8
"""Super-blocks from the one that is read to the one that is prefetched, as measured."""
comptime _MAX_TILE_TOKENS = 12
"""Most tokens that are multiplied with a tile at once."""
comptime _TOKENS_PER_TASK = 8
"""Tokens that one task quantizes."""


@fieldwise_init
struct Activations(Copyable, ImplicitlyCopyable, Movable):
    """Quantized activations, see `quantize.mojo`."""

    var tokens: Int
    var super_blocks: Int
    """Super-blocks of 256 values of each token."""
    var records: BytePointer
    """`[super_blocks, tokens]` records."""
    var reordered: BytePointer
    """A second copy of a single token's values, as `reorder_values` lays them out."""
    var grouped_sums: BytePointer
    """A second copy of a single token's sums, those of every four records as
    `group_sums` lays them out."""

    def token_blocks(self) -> Int:
        """Returns the number of blocks of tokens that a tile is unpacked for."""
        return ceildiv(self.tokens, _TOKENS_PER_BLOCK)

    def free(self):
        """Frees the memory of the records."""
        self.records.unsafe_free()


@no_inline
def quantize_activations(
    x: FloatPointer, tokens: Int, width: Int, stride: Int
) -> Activations:
    """Quantizes activations; the caller frees them.

    Args:
        x: The first token.
        tokens: Number of tokens.
        width: Values of a token, a multiple of 256.
        stride: Values from one token to the next.
    """
    var super_blocks = width // SUPER_BLOCK
    var size = ceildiv(max(1, tokens * super_blocks) * RECORD_BYTES, 64) * 64
    var copied = super_blocks if tokens == 1 else 0
    var groups = ceildiv(copied, UNROLL)
    var copies = copied * SUPER_BLOCK + groups * GROUPED_SUMS_BYTES
    var records = rebind[BytePointer](unsafe_alloc[UInt8](size + copies, alignment=64))
    var reordered = records.unsafe_offset(size)
    var grouped_sums = reordered.unsafe_offset(copied * SUPER_BLOCK)

    def work(task: Int) {imm}:
        var first = task * _TOKENS_PER_TASK
        for token in range(first, min(tokens, first + _TOKENS_PER_TASK)):
            for super_block in range(super_blocks):
                quantize_record(
                    x.unsafe_offset(token * stride + super_block * SUPER_BLOCK),
                    records.unsafe_offset(
                        (super_block * tokens + token) * RECORD_BYTES
                    ),
                )

    if tokens <= _TOKENS_PER_TASK:
        work(0)
    else:
        sync_parallelize(work, ceildiv(tokens, _TOKENS_PER_TASK))
    for i in range(copied):
        reorder_values(
            records.unsafe_offset(i * RECORD_BYTES),
            reordered.unsafe_offset(i * SUPER_BLOCK),
        )
    for group in range(groups):
        var first = group * UNROLL
        group_sums(
            records.unsafe_offset(first * RECORD_BYTES),
            min(UNROLL, copied - first),
            grouped_sums.unsafe_offset(group * GROUPED_SUMS_BYTES),
        )
    return Activations(tokens, super_blocks, records, reordered, grouped_sums)


@fieldwise_init
struct Matrix(Copyable, ImplicitlyCopyable, Movable):
    """A matrix of GGUF blocks, and the output of its products."""

    var blocks: BytePointer
    var columns: Int
    """Columns of the product: the rows of the file's matrix."""
    var stride: Int
    """Bytes from one column's blocks to those of the next."""
    var result: FloatPointer
    """Output of the first token."""
    var result_stride: Int

    def groups(self) -> Int:
        """Returns the number of groups of sixteen columns; the last may have fewer."""
        return ceildiv(self.columns, COLUMNS)


@no_inline
def multiply_group[
    Format: BlockFormat, simd: Simd, gated: Bool = False
](activations: Activations, matrix: Matrix, group: Int, token_block: Int):
    """Multiplies a block of tokens with sixteen columns.

    Parameters:
        Format: The GGUF format of the matrix.
        simd: The form of the vectors.
        gated: Whether `silu(result) * product` replaces the result, else the product.

    Args:
        activations: The tokens.
        matrix: The matrix.
        group: Index of the group of columns.
        token_block: Index of the block of tokens.
    """
    var tile = rebind[BytePointer](
        unsafe_stack_allocation[TILE_BYTES, UInt8, alignment=64]()
    )
    var totals = rebind[FloatPointer](
        unsafe_stack_allocation[_TOKENS_PER_BLOCK * COLUMNS, Float32, alignment=64]()
    )
    var first_column = group * COLUMNS
    var num_columns = min(COLUMNS, matrix.columns - first_column)
    var column = matrix.blocks.unsafe_offset(first_column * matrix.stride)
    var is_last = first_column + 2 * COLUMNS > matrix.columns
    var first_token = token_block * _TOKENS_PER_BLOCK
    var tokens = min(_TOKENS_PER_BLOCK, activations.tokens - first_token)
    for i in range(0, tokens * COLUMNS, simd.width):
        totals.unsafe_store(i, SIMD[DType.float32, simd.width](0))
    for super_block in range(activations.super_blocks):
        var blocks = column.unsafe_offset(super_block * Format.SUPER_BLOCK_BYTES)
        var upcoming = blocks
        if super_block + _PREFETCH_DISTANCE < activations.super_blocks:
            upcoming = blocks.unsafe_offset(
                _PREFETCH_DISTANCE * Format.SUPER_BLOCK_BYTES
            )
        elif not is_last:
            # Columns are contiguous, so this is in those of the next group.
            upcoming = blocks.unsafe_offset(
                (activations.super_blocks * (COLUMNS - 1) + _PREFETCH_DISTANCE)
                * Format.SUPER_BLOCK_BYTES
            )
        var records = activations.records.unsafe_offset(
            (super_block * activations.tokens + first_token) * RECORD_BYTES
        )
        if num_columns == COLUMNS and activations.tokens == 1:
            # A single token waits for memory, which answers sooner the fewer columns
            # are read side by side; the sums are the same.
            _multiply_packed[Format, Simd(8, False), 1, 1](
                blocks, matrix.stride, upcoming, records, totals, tokens
            )
            continue
        if num_columns == COLUMNS and activations.tokens <= _max_packed_tokens(simd):
            _multiply_packed[Format, simd, 2, _max_packed_tokens(simd)](
                blocks, matrix.stride, upcoming, records, totals, tokens
            )
            continue
        if num_columns == COLUMNS:
            _unpack[Format, simd](blocks, matrix.stride, upcoming, tile)
        else:
            _unpack_partial_group[Format, simd](
                blocks, matrix.stride, tile, num_columns
            )
        _multiply_unpacked[Format, simd](tile, records, totals, tokens)
    for token in range(tokens):
        store_products[simd.width, gated](
            matrix,
            first_token + token,
            first_column,
            num_columns,
            totals.unsafe_offset(token * COLUMNS),
        )


@always_inline
def store_products[
    simd_width: Int, gated: Bool
](matrix: Matrix, token: Int, first_column: Int, count: Int, products: FloatPointer):
    """Stores a token's products with up to sixteen columns.

    Parameters:
        simd_width: Columns of a vector.
        gated: Whether `silu(result) * product` replaces the result, else the product.

    Args:
        matrix: The matrix.
        token: Index of the token.
        first_column: Index of the first column.
        count: Number of columns.
        products: One product for each column.
    """
    var result = matrix.result.unsafe_offset(
        token * matrix.result_stride + first_column
    )
    if count == COLUMNS:
        comptime for i in range(0, COLUMNS, simd_width):
            _store_vector[simd_width, gated](
                result.unsafe_offset(i), products.unsafe_load[width=simd_width](i)
            )
    else:
        for i in range(count):
            _store_vector[1, gated](result.unsafe_offset(i), products.unsafe_load(i))


@always_inline
def _unpack[
    Format: BlockFormat, simd: Simd
](blocks: BytePointer, stride: Int, upcoming: BytePointer, tile: BytePointer):
    comptime for part in range(COLUMNS // simd.width):
        var offset = part * simd.width * stride
        Format.unpack[simd](
            blocks.unsafe_offset(offset),
            stride,
            upcoming.unsafe_offset(offset),
            tile,
            part,
        )


@no_inline
def _unpack_partial_group[
    Format: BlockFormat, simd: Simd
](blocks: BytePointer, stride: Int, tile: BytePointer, num_columns: Int):
    """Unpacks a super-block of fewer than sixteen columns; the last one fills the
    others."""
    var copies = rebind[BytePointer](
        unsafe_stack_allocation[
            COLUMNS * Format.SUPER_BLOCK_BYTES, UInt8, alignment=64
        ]()
    )
    for i in range(COLUMNS):
        var source = blocks.unsafe_offset(min(i, num_columns - 1) * stride)
        for byte in range(Format.SUPER_BLOCK_BYTES):
            copies.unsafe_store(
                i * Format.SUPER_BLOCK_BYTES + byte, source.unsafe_load(byte)
            )
    _unpack[Format, simd](copies, Format.SUPER_BLOCK_BYTES, copies, tile)


def _max_packed_tokens(simd: Simd) -> Int:
    """Returns the most tokens that are multiplied with weights while these are unpacked
    in registers."""
    return 2 if simd.width == 8 else 8


@always_inline
def _multiply_packed[
    Format: BlockFormat, simd: Simd, least_tokens: Int, most_tokens: Int
](
    blocks: BytePointer,
    stride: Int,
    upcoming: BytePointer,
    records: BytePointer,
    totals: FloatPointer,
    tokens: Int,
):
    comptime for part in range(COLUMNS // simd.width):
        var column = blocks.unsafe_offset(part * simd.width * stride)
        var next = upcoming.unsafe_offset(part * simd.width * stride)
        var sums = totals.unsafe_offset(part * simd.width)
        comptime for count in range(least_tokens, most_tokens + 1):
            if tokens == count:
                Format.multiply_packed[count, simd](
                    column, stride, next, records, sums
                )


@always_inline
def _multiply_unpacked[
    Format: BlockFormat, simd: Simd
](tile: BytePointer, records: BytePointer, totals: FloatPointer, tokens: Int):
    var token = 0
    comptime for height in range(_MAX_TILE_TOKENS, 0, -1):
        comptime if _is_tile_height(height, simd):
            while token + height <= tokens:
                Format.multiply_tile[height, simd](
                    tile,
                    records.unsafe_offset(token * RECORD_BYTES),
                    totals.unsafe_offset(token * COLUMNS),
                )
                token += height


def _is_tile_height(tokens: Int, simd: Simd) -> Bool:
    """Returns True if that many tokens are multiplied at once: their sums must fit the
    registers, with AVX2 in int16 and in int32."""
    if simd.width == 16:
        return tokens <= 4 or tokens == 6 or tokens == 8 or tokens == 12
    return tokens <= (4 if simd.has_vnni else 3) or (simd.has_vnni and tokens == 6)


@always_inline
def _store_vector[
    width: Int, gated: Bool
](result: FloatPointer, product: SIMD[DType.float32, width]):
    comptime if gated:
        var gate = result.unsafe_load[width=width, alignment=4](0)
        result.unsafe_store[alignment=4](0, gate / (1 + exp(-gate)) * product)
    else:
        result.unsafe_store[alignment=4](0, product)
