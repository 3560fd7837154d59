"""Multiplies tokens with tiles of sixteen columns; tokens are shared among the cores.
"""

from max.algorithm import sync_parallelize
from std.math import ceildiv
from std.memory.alloc import unsafe_alloc

from .bounds import bound_weights
from .quantize import quantize_token
from .simd import (
    COLUMNS,
    QUAD,
    BytePointer,
    FloatPointer,
    Simd,
    Sums,
    Weights,
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
    simd: Simd, has_addend: Bool
](x: FloatPointer, num_tokens: Int, matrix: Matrix, output: Output):
    """Computes all products.

    Args:
        x: `[tokens, width]`.
        num_tokens: Number of tokens.
        matrix: The other factor.
        output: Output, and the addend.
    """
    comptime if simd.has_vnni:
        _multiply[simd, has_addend](x, num_tokens, matrix, output)
    else:
        var bounded = Matrix(
            rebind[BytePointer](
                unsafe_alloc[Int8](matrix.columns * matrix.width, alignment=64)
            ),
            rebind[FloatPointer](unsafe_alloc[Float32](matrix.columns, alignment=64)),
            matrix.width,
            matrix.columns,
        )
        bound_weights(
            matrix.weights,
            matrix.scales,
            matrix.width,
            matrix.columns,
            bounded.weights,
            bounded.scales,
        )
        _multiply[simd, has_addend](x, num_tokens, bounded, output)
        bounded.weights.unsafe_free()
        bounded.scales.unsafe_free()


def _multiply[
    simd: Simd, has_addend: Bool
](x: FloatPointer, num_tokens: Int, matrix: Matrix, output: Output):
    """Computes all products with weights as `add_dot_products` needs them."""

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
                quantize_token[simd.width](
                    x.unsafe_offset((first + token) * matrix.width),
                    matrix.width,
                    tokens.values.unsafe_offset(token * matrix.width),
                ),
            )
        # Tiles of columns stay in the L1 and L2 caches while all tokens pass.
        comptime tiles = _tiles(simd)
        var column = 0
        while column < matrix.columns:
            if column + tiles * COLUMNS <= matrix.columns:
                _multiply_tokens[simd, tiles, has_addend](tokens, count, matrix, column)
                column += tiles * COLUMNS
            else:
                _multiply_tokens[simd, 1, has_addend](tokens, count, matrix, column)
                column += COLUMNS
        tokens.values.unsafe_free()
        tokens.scales.unsafe_free()

    sync_parallelize(work, ceildiv(num_tokens, _TOKENS_PER_TASK))


def _tiles(simd: Simd) -> Int:
    """Returns the number of tiles of columns that are multiplied at once."""
    return 2 if simd.width == 16 else 1


def _tile_height(simd: Simd) -> Int:
    """Returns the number of tokens that are multiplied at once: their sums must fit the
    registers."""
    if simd.width == 16:
        return 12
    return 6 if simd.has_vnni else 4


@always_inline
def _multiply_tokens[
    simd: Simd, tiles: Int, has_addend: Bool
](tokens: _QuantizedTokens, count: Int, matrix: Matrix, column: Int):
    """Multiplies tokens with `tiles` tiles of columns."""
    comptime vectors = tiles * COLUMNS // simd.width
    comptime tile_height = _tile_height(simd)
    var compensation = _compensation[simd, vectors](matrix, column)
    var token = 0
    while token + tile_height <= count:
        _multiply_tile[simd, tile_height, vectors, has_addend](
            tokens.advance(token, matrix.width), matrix, column, compensation
        )
        token += tile_height
    while token < count:
        _multiply_tile[simd, 1, vectors, has_addend](
            tokens.advance(token, matrix.width), matrix, column, compensation
        )
        token += 1


def _compensation[
    simd: Simd, vectors: Int
](matrix: Matrix, column: Int) -> Array[Sums[simd], vectors]:
    """Returns what the offset of unsigned activations adds to the sums of products.

    This is a column's sum of weights times 128.
    """
    comptime quads = simd.quads()
    var compensation = Array[Sums[simd], vectors](fill=Sums[simd](0))
    var ones = Array[Int32, quads](fill=Int32(0x01010101))
    for quad in range(0, matrix.width // 4, quads):
        comptime for vector in range(vectors):
            compensation[vector] = add_dot_products[simd](
                compensation[vector],
                ones,
                _load_weights[simd, vector](matrix, column, quad),
            )
    comptime for vector in range(vectors):
        compensation[vector] <<= 7
    return compensation^


@always_inline
def _load_weights[
    simd: Simd, vector: Int
](matrix: Matrix, column: Int, quad: Int) -> Array[Weights[simd], simd.quads()]:
    """Loads successive weights of each column of a vector.

    Parameters:
        simd: The form of the vectors.
        vector: Index of the vector, from `column` on.

    Args:
        matrix: The matrix.
        column: The first column.
        quad: Index of the first four weights.
    """
    comptime tile = vector * simd.width // COLUMNS
    comptime offset = vector * simd.width % COLUMNS * 4
    var weights = Array[Weights[simd], simd.quads()](uninitialized=True)
    comptime for i in range(simd.quads()):
        weights[i] = matrix.weights.unsafe_load[width=4 * simd.width](
            (column + tile * COLUMNS) * matrix.width + (quad + i) * QUAD + offset
        )
    return weights^


@no_inline
def _multiply_tile[
    simd: Simd, num_tokens: Int, vectors: Int, has_addend: Bool
](
    tokens: _QuantizedTokens,
    matrix: Matrix,
    column: Int,
    compensation: Array[Sums[simd], vectors],
):
    """Multiplies a few tokens with some vectors of columns, with all sums in registers.
    """
    comptime quads = simd.quads()
    var sums = Array[Sums[simd], num_tokens * vectors](fill=Sums[simd](0))
    for quad in range(0, matrix.width // 4, quads):
        var weights = Array[Array[Weights[simd], quads], vectors](uninitialized=True)
        comptime for vector in range(vectors):
            weights[vector] = _load_weights[simd, vector](matrix, column, quad)
        comptime for token in range(num_tokens):
            var values = Array[Int32, quads](uninitialized=True)
            comptime for i in range(quads):
                values[i] = load_4_bytes(
                    tokens.values.unsafe_offset(token * matrix.width + (quad + i) * 4)
                )
            comptime for vector in range(vectors):
                sums[token * vectors + vector] = add_dot_products[simd](
                    sums[token * vectors + vector], values, weights[vector]
                )
    comptime for vector in range(vectors):
        var first_column = column + vector * simd.width
        var scales = matrix.scales.unsafe_load[width=simd.width, alignment=4](
            first_column
        )
        comptime for token in range(num_tokens):
            var sum = sums[token * vectors + vector] - compensation[vector]
            var value = sum.cast[DType.float32]() * (
                scales * tokens.scales.unsafe_load(token)
            )
            comptime if has_addend:
                value += tokens.output.addend.unsafe_load[
                    width=simd.width, alignment=4
                ](token * tokens.output.addend_stride + first_column)
            tokens.output.result.unsafe_store[alignment=4](
                token * matrix.columns + first_column, value
            )
