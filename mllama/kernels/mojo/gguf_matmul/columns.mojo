"""One row of activations times columns, one after the other.

A row waits for memory, which answers a core that reads one stretch of it a third faster
than one that reads sixteen columns side by side.
"""

from std.math import fma
from std.memory import unsafe_stack_allocation

from .activations import CROSSED, SCALE
from .fetching import fetch, fetch_next
from .formats import SpanFormat
from .lanes import COLUMNS, RECORD, SPANS, Bytes, Floats, float_at
from .products import Activations, Matrix, store

comptime _MOST_SPANS = 64
"""Spans of a row that stay in the first cache while columns stream past it."""


def is_read_by_column(activations: Activations) -> Bool:
    """Whether that is the faster way."""
    return activations.rows == 1 and activations.spans <= _MOST_SPANS


def multiply_columns[
    Format: SpanFormat, lanes: Int, gated: Bool
](activations: Activations, matrix: Matrix, group: Int):
    """Products of the only row with sixteen columns, the same as `multiply_group`'s."""
    var totals = rebind[Floats](
        unsafe_stack_allocation[COLUMNS, Float32, alignment=64]()
    )
    var first = group * COLUMNS
    var count = min(COLUMNS, matrix.columns - first)
    for i in range(count):
        var column = matrix.blocks.unsafe_offset((first + i) * matrix.stride)
        totals.unsafe_store(i, _product[Format, lanes](activations, column))
    store[lanes, gated](matrix, 0, first, count, totals)


@always_inline
def _product[
    Format: SpanFormat, lanes: Int
](activations: Activations, column: Bytes) -> Float32:
    var total = Float32(0)
    var together = activations.spans // SPANS * SPANS
    for span in range(0, together, SPANS):
        fetch[SPANS * Format.SIZE](
            column.unsafe_offset(span * Format.SIZE + Format.AHEAD)
        )
        fetch_next[SPANS * Format.SIZE](
            column.unsafe_offset((span + SPANS) * Format.SIZE)
        )
        total = _with_spans[Format, SPANS, lanes](total, activations, column, span)
    comptime for rest in range(1, SPANS):
        if activations.spans - together == rest:
            total = _with_spans[Format, rest, lanes](
                total, activations, column, together
            )
    return total


@always_inline
def _with_spans[
    Format: SpanFormat, count: Int, lanes: Int
](before: Float32, activations: Activations, column: Bytes, span: Int) -> Float32:
    """A sum, and products of some spans in the order in which all ways add them."""
    var records = activations.records.unsafe_offset(span * RECORD)
    var products = Format.multiply_spans[count, lanes](
        column.unsafe_offset(span * Format.SIZE),
        records,
        activations.crossed.unsafe_offset(span // SPANS * CROSSED),
    )
    var total = before
    comptime for i in range(count):
        var scale = float_at(records.unsafe_offset(i * RECORD + SCALE))
        total = fma(products[i], scale, total)
    return total
