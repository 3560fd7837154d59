"""Multiplies tokens with tiles of sixteen columns; tokens are shared among the cores.
"""

from max.algorithm import sync_parallelize
from std.math import ceildiv
from std.memory.alloc import unsafe_alloc

from .quantize import quantize_token
from .simd import (
    COLUMNS,
    QUAD,
    BytePointer,
    FloatPointer,
    add_dot_products,
    load_4_bytes,
)

comptime _TOKENS_PER_TASK = 96
"""Tokens of a task: their int8 values fit the L2 cache."""


@fieldwise_init
struct Matrix(Copyable, ImplicitlyCopyable, Movable):
    """An int8 matrix and its scales."""

    var weights: BytePointer
    """Tiles of sixteen columns, `[columns / 16, width / 4, 16, 4]`."""
    var scales: FloatPointer
    """`[columns]`."""
    var width: Int
    """A multiple of 16."""
    var columns: Int
    """A multiple of 16."""


@fieldwise_init
struct Output(Copyable, ImplicitlyCopyable, Movable):
    """The output of the products, and what is added to them."""

    var result: FloatPointer
    """`[tokens, columns]`."""
    var columns: Int
    var addend: FloatPointer
    """Addend of the first token, if there is one."""
    var addend_stride: Int
    """Values from one token's addend to the next; 0 if all tokens share it."""

    def advance(self, tokens: Int) -> Self:
        """Returns the output that begins `tokens` later."""
        return Self(
            self.result.unsafe_offset(tokens * self.columns),
            self.columns,
            self.addend.unsafe_offset(tokens * self.addend_stride),
            self.addend_stride,
        )


@fieldwise_init
struct _QuantizedTokens(Copyable, ImplicitlyCopyable, Movable):
    """Tokens quantized to int8, and their output."""

    var values: BytePointer
    """`[tokens, width]`."""
    var scales: FloatPointer
    """`[tokens]`."""
    var output: Output
    """Output of the first token."""

    def advance(self, tokens: Int, width: Int) -> Self:
        """Returns the tokens that begin `tokens` later."""
        return Self(
            self.values.unsafe_offset(tokens * width),
            self.scales.unsafe_offset(tokens),
            self.output.advance(tokens),
        )


def int8_matmul[
    simd_width: Int, has_addend: Bool
](x: FloatPointer, num_tokens: Int, matrix: Matrix, output: Output):
    """Computes all products.

    Args:
        x: `[tokens, width]`.
        num_tokens: Number of tokens.
        matrix: The other factor.
        output: Output, and the addend.
    """
    # Tokens of a tile of accumulators.
    comptime tile_height = 12 if simd_width == 16 else 4

    def work(task: Int) {imm}:
        var first = task * _TOKENS_PER_TASK
        var count = min(_TOKENS_PER_TASK, num_tokens - first)
        var tokens = _QuantizedTokens(
            rebind[BytePointer](
                unsafe_alloc[Int8](_TOKENS_PER_TASK * matrix.width, alignment=64)
            ),
            rebind[FloatPointer](unsafe_alloc[Float32](_TOKENS_PER_TASK, alignment=64)),
            output.advance(first),
        )
        for token in range(count):
            tokens.scales.unsafe_store(
                token,
                quantize_token[simd_width](
                    x.unsafe_offset((first + token) * matrix.width),
                    matrix.width,
                    tokens.values.unsafe_offset(token * matrix.width),
                ),
            )
        # Two tiles of columns stay in the L1 and L2 caches while all tokens pass.
        var column = 0
        while column < matrix.columns:
            if simd_width == 16 and column + 2 * COLUMNS <= matrix.columns:
                _multiply_tokens[simd_width, tile_height, 2, has_addend](
                    tokens, count, matrix, column
                )
                column += 2 * COLUMNS
            else:
                _multiply_tokens[simd_width, tile_height, 1, has_addend](
                    tokens, count, matrix, column
                )
                column += COLUMNS
        tokens.values.unsafe_free()
        tokens.scales.unsafe_free()

    sync_parallelize(work, ceildiv(num_tokens, _TOKENS_PER_TASK))


@always_inline
def _multiply_tokens[
    simd_width: Int, tile_height: Int, tiles: Int, has_addend: Bool
](tokens: _QuantizedTokens, count: Int, matrix: Matrix, column: Int):
    """Multiplies tokens with `tiles` tiles of columns."""
    comptime vectors = tiles * COLUMNS // simd_width
    var compensation = _compensation[simd_width, vectors](matrix, column)
    var token = 0
    while token + tile_height <= count:
        _multiply_tile[simd_width, tile_height, vectors, has_addend](
            tokens.advance(token, matrix.width), matrix, column, compensation
        )
        token += tile_height
    while token < count:
        _multiply_tile[simd_width, 1, vectors, has_addend](
            tokens.advance(token, matrix.width), matrix, column, compensation
        )
        token += 1


def _compensation[
    simd_width: Int, vectors: Int
](matrix: Matrix, column: Int) -> Array[SIMD[DType.int32, simd_width], vectors]:
    """Returns what the offset of unsigned activations adds to the sums of products.

    `add_dot_products` explains the offset; the term is a column's sum of weights times
    128.
    """
    comptime Totals = SIMD[DType.int32, simd_width]
    var compensation = Array[Totals, vectors](fill=Totals(0))
    comptime if simd_width == 16:
        for quad in range(matrix.width // 4):
            comptime for vector in range(vectors):
                compensation[vector] = add_dot_products[simd_width](
                    compensation[vector],
                    Int32(0x01010101),
                    _load_weights[simd_width, vector](matrix, column, quad),
                )
    comptime for vector in range(vectors):
        compensation[vector] <<= 7
    return compensation^


@always_inline
def _load_weights[
    simd_width: Int, vector: Int
](matrix: Matrix, column: Int, quad: Int) -> SIMD[DType.int8, 4 * simd_width]:
    """Loads four successive weights of each column of a vector.

    Parameters:
        simd_width: Columns of a vector.
        vector: Index of the vector, from `column` on.

    Args:
        matrix: The matrix.
        column: The first column.
        quad: Index of the four weights.
    """
    comptime tile = vector * simd_width // COLUMNS
    comptime offset = vector * simd_width % COLUMNS * 4
    return matrix.weights.unsafe_load[width=4 * simd_width](
        (column + tile * COLUMNS) * matrix.width + quad * QUAD + offset
    )


@no_inline
def _multiply_tile[
    simd_width: Int, num_tokens: Int, vectors: Int, has_addend: Bool
](
    tokens: _QuantizedTokens,
    matrix: Matrix,
    column: Int,
    compensation: Array[SIMD[DType.int32, simd_width], vectors],
):
    """Multiplies a few tokens with some vectors of columns, with all sums in registers.
    """
    comptime Totals = SIMD[DType.int32, simd_width]
    var sums = Array[Totals, num_tokens * vectors](fill=Totals(0))
    for quad in range(matrix.width // 4):
        var weights = Array[SIMD[DType.int8, 4 * simd_width], vectors](
            uninitialized=True
        )
        comptime for vector in range(vectors):
            weights[vector] = _load_weights[simd_width, vector](matrix, column, quad)
        comptime for token in range(num_tokens):
            var values = load_4_bytes(
                tokens.values.unsafe_offset(token * matrix.width + quad * 4)
            )
            comptime for vector in range(vectors):
                sums[token * vectors + vector] = add_dot_products[simd_width](
                    sums[token * vectors + vector], values, weights[vector]
                )
    comptime for vector in range(vectors):
        var first_column = column + vector * simd_width
        var scales = matrix.scales.unsafe_load[width=simd_width, alignment=4](
            first_column
        )
        comptime for token in range(num_tokens):
            var sum = sums[token * vectors + vector] - compensation[vector]
            var value = sum.cast[DType.float32]() * (
                scales * tokens.scales.unsafe_load(token)
            )
            comptime if has_addend:
                value += tokens.output.addend.unsafe_load[
                    width=simd_width, alignment=4
                ](token * tokens.output.addend_stride + first_column)
            tokens.output.result.unsafe_store[alignment=4](
                token * matrix.columns + first_column, value
            )
