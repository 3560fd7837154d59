"""Rows of activations times matrices of blocks, columns shared out among the cores."""

from max.algorithm import sync_parallelize
from std.math import ceildiv, exp
from std.memory import unsafe_stack_allocation
from std.memory.alloc import unsafe_alloc

from .activations import CROSSED, cross, quantize
from .fetching import INTO_FIRST, fetch
from .formats import TILE, BlockFormat
from .lanes import COLUMNS, RECORD, SPAN, SPANS, Bytes, Floats

comptime _ROWS = 256
"""Rows for which a tile is unpacked: 256 values of each, and their totals, fit L2."""
comptime _AHEAD = 4 if INTO_FIRST else 8
"""Spans from the one being read to the one being fetched, as measured."""
comptime _MOST_ROWS = 12
"""Rows that are multiplied with a tile at once, at most."""
comptime _ROWS_PER_TASK = 8
"""Rows that one task quantizes."""


@fieldwise_init
struct Activations(Copyable, ImplicitlyCopyable, Movable):
    """Quantized rows, see `activations.mojo`."""

    var rows: Int
    var spans: Int
    """How many times 256 values a row has."""
    var records: Bytes
    """`[spans, rows]` records."""
    var crossed: Bytes
    """Those of a single row once more, four after four, as `cross` lays them out."""

    def blocks(self) -> Int:
        """Groups of rows that a tile is unpacked for."""
        return ceildiv(self.rows, _ROWS)

    def free(self):
        """Gives the memory of the records back."""
        self.records.unsafe_free()


def quantized(x: Floats, rows: Int, width: Int, stride: Int) -> Activations:
    """Quantizes rows; the caller frees them.

    Args:
        x: The first.
        rows: How many there are.
        width: Values of a row, a multiple of 256.
        stride: Values from a row to the next.
    """
    var spans = width // SPAN
    var size = ceildiv(max(1, rows * spans) * RECORD, 64) * 64
    var groups = ceildiv(spans, SPANS) if rows == 1 else 0
    var records = rebind[Bytes](
        unsafe_alloc[UInt8](size + groups * CROSSED, alignment=64)
    )
    var crossed = records.unsafe_offset(size)

    def some(task: Int) {imm}:
        var first = task * _ROWS_PER_TASK
        for row in range(first, min(rows, first + _ROWS_PER_TASK)):
            for span in range(spans):
                quantize(
                    x.unsafe_offset(row * stride + span * SPAN),
                    records.unsafe_offset((span * rows + row) * RECORD),
                )

    if rows <= _ROWS_PER_TASK:
        some(0)
    else:
        sync_parallelize(some, ceildiv(rows, _ROWS_PER_TASK))
    for group in range(groups):
        var first = group * SPANS
        cross(
            records.unsafe_offset(first * RECORD),
            min(SPANS, spans - first),
            crossed.unsafe_offset(group * CROSSED),
        )
    return Activations(rows, spans, records, crossed)


@fieldwise_init
struct Matrix(Copyable, ImplicitlyCopyable, Movable):
    """A matrix of blocks, and where its products go."""

    var blocks: Bytes
    var columns: Int
    """Results of a row: the rows of the file's matrix."""
    var stride: Int
    """Bytes from a column's blocks to those of the next."""
    var result: Floats
    """The first row's."""
    var result_stride: Int

    def groups(self) -> Int:
        """Groups of sixteen columns, the last perhaps with fewer."""
        return ceildiv(self.columns, COLUMNS)


def multiply_group[
    Format: BlockFormat, lanes: Int, gated: Bool = False
](activations: Activations, matrix: Matrix, group: Int, block: Int):
    """Products of a block of rows with sixteen columns.

    Parameters:
        Format: The matrix's.
        lanes: Columns of a vector.
        gated: Whether `silu(result) * product` replaces the result, else the product.

    Args:
        activations: The rows.
        matrix: The matrix.
        group: Which columns.
        block: Which rows.
    """
    var tile = rebind[Bytes](unsafe_stack_allocation[TILE, UInt8, alignment=64]())
    var totals = rebind[Floats](
        unsafe_stack_allocation[_ROWS * COLUMNS, Float32, alignment=64]()
    )
    var first_column = group * COLUMNS
    var valid = min(COLUMNS, matrix.columns - first_column)
    var column = matrix.blocks.unsafe_offset(first_column * matrix.stride)
    var is_last = first_column + 2 * COLUMNS > matrix.columns
    var first_row = block * _ROWS
    var rows = min(_ROWS, activations.rows - first_row)
    for i in range(0, rows * COLUMNS, lanes):
        totals.unsafe_store(i, SIMD[DType.float32, lanes](0))
    for span in range(activations.spans):
        var blocks = column.unsafe_offset(span * Format.SIZE)
        var ahead = blocks
        if span + _AHEAD < activations.spans:
            ahead = blocks.unsafe_offset(_AHEAD * Format.SIZE)
        elif not is_last:
            # Columns lie one after the other: those of the next group.
            ahead = blocks.unsafe_offset(
                (activations.spans * (COLUMNS - 1) + _AHEAD) * Format.SIZE
            )
        var records = activations.records.unsafe_offset(
            (span * activations.rows + first_row) * RECORD
        )
        if valid == COLUMNS and activations.rows == 1:
            # It waits for memory, which answers sooner the fewer columns are read side
            # by side; the sums are the same.
            _multiply_packed[Format, 8](
                blocks, matrix.stride, ahead, records, totals, rows
            )
            continue
        if valid == COLUMNS and activations.rows <= _few_rows(lanes):
            _multiply_packed[Format, lanes](
                blocks, matrix.stride, ahead, records, totals, rows
            )
            continue
        if valid == COLUMNS:
            _unpack[Format, lanes](blocks, matrix.stride, tile)
            for i in range(COLUMNS):
                fetch[Format.SIZE](ahead.unsafe_offset(i * matrix.stride))
        else:
            _unpack_some[Format, lanes](blocks, matrix.stride, tile, valid)
        _multiply_rows[Format, lanes](tile, records, totals, rows)
    for row in range(rows):
        store[lanes, gated](
            matrix,
            first_row + row,
            first_column,
            valid,
            totals.unsafe_offset(row * COLUMNS),
        )


@always_inline
def store[
    lanes: Int, gated: Bool
](matrix: Matrix, row: Int, first_column: Int, count: Int, products: Floats):
    """Puts a row's products with up to sixteen columns where they go.

    Parameters:
        lanes: Of a vector.
        gated: As for `multiply_group`.

    Args:
        matrix: Whose columns they are.
        row: The row.
        first_column: The first one's place.
        count: How many columns.
        products: One for each of them.
    """
    var result = matrix.result.unsafe_offset(row * matrix.result_stride + first_column)
    if count == COLUMNS:
        comptime for i in range(0, COLUMNS, lanes):
            _store[lanes, gated](
                result.unsafe_offset(i), products.unsafe_load[width=lanes](i)
            )
    else:
        for i in range(count):
            _store[1, gated](result.unsafe_offset(i), products.unsafe_load(i))


@always_inline
def _unpack[
    Format: BlockFormat, lanes: Int
](blocks: Bytes, stride: Int, tile: Bytes):
    comptime for part in range(COLUMNS // lanes):
        var column = blocks.unsafe_offset(part * lanes * stride)
        Format.unpack[lanes](column, stride, tile, part)


def _unpack_some[
    Format: BlockFormat, lanes: Int
](blocks: Bytes, stride: Int, tile: Bytes, valid: Int):
    """Unpacks 256 weights of fewer than sixteen columns, and of the last again."""
    var copies = rebind[Bytes](
        unsafe_stack_allocation[COLUMNS * Format.SIZE, UInt8, alignment=64]()
    )
    for i in range(COLUMNS):
        var source = blocks.unsafe_offset(min(i, valid - 1) * stride)
        for byte in range(Format.SIZE):
            copies.unsafe_store(i * Format.SIZE + byte, source.unsafe_load(byte))
    _unpack[Format, lanes](copies, Format.SIZE, tile)


def _few_rows(lanes: Int) -> Int:
    """How many rows at most are multiplied with levels as they are unpacked."""
    return 2 if lanes == 8 else 8


@always_inline
def _multiply_packed[
    Format: BlockFormat, lanes: Int
](
    blocks: Bytes,
    stride: Int,
    ahead: Bytes,
    records: Bytes,
    totals: Floats,
    rows: Int,
):
    comptime for part in range(COLUMNS // lanes):
        var column = blocks.unsafe_offset(part * lanes * stride)
        var next = ahead.unsafe_offset(part * lanes * stride)
        var sums = totals.unsafe_offset(part * lanes)
        comptime for few in range(1, _few_rows(lanes) + 1):
            if rows == few:
                Format.multiply_packed[few, lanes](column, stride, next, records, sums)


@always_inline
def _multiply_rows[
    Format: BlockFormat, lanes: Int
](tile: Bytes, records: Bytes, totals: Floats, rows: Int):
    var row = 0
    comptime for block in range(_MOST_ROWS, 0, -1):
        comptime if _is_block(block, lanes):
            while row + block <= rows:
                Format.multiply[block, lanes](
                    tile,
                    records.unsafe_offset(row * RECORD),
                    totals.unsafe_offset(row * COLUMNS),
                )
                row += block


def _is_block(rows: Int, lanes: Int) -> Bool:
    """Whether so many rows are multiplied at once: their sums must fit the registers."""
    return rows <= 4 or (lanes == 16 and (rows == 6 or rows == 8 or rows == 12))


@always_inline
def _store[width: Int, gated: Bool](result: Floats, product: SIMD[DType.float32, width]):
    comptime if gated:
        var gate = result.unsafe_load[width=width, alignment=4](0)
        result.unsafe_store[alignment=4](0, gate / (1 + exp(-gate)) * product)
    else:
        result.unsafe_store[alignment=4](0, product)
