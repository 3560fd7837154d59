"""Products of activations with matrices of GGUF blocks, as operations of MAX graphs.

The blocks are read where they are, in ggml's layout.  Activations become bytes first,
as in ggml, with a scale for every 256 values.  NumPy's form of all this, which the tests
compare with, is `tests/kernels/gguf_matmul.py`.  `lanes` are the columns of a vector.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from max.runtime.asyncrt import parallelism_level

from .columns import is_read_by_column, multiply_columns
from .formats import SpanFormat
from .lanes import SPAN, Bytes, Floats
from .products import Activations, Matrix, multiply_group, quantized
from .q4_0 import Q4_0
from .q4_k import Q4_K
from .q6_k import Q6_K

comptime _TASKS_PER_CORE = 4
"""So that cores finish together though another program slows one of them down."""


@extensibility.register("mllama_gguf_matmul")
struct BlockProduct:
    """`x @ weights.T`."""

    @staticmethod
    def execute[
        target: StaticString, encoding: StaticString, lanes: Int
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var matrix = _matrix[encoding](result, x, weights, 0)
        _check_columns(result, matrix.columns)
        var rows = _quantized(x)
        var groups = matrix.groups()
        var tasks = _tasks(groups)

        def some(task: Int) {imm}:
            var first = task * groups // tasks
            var last = (task + 1) * groups // tasks
            for block in range(rows.blocks()):
                for group in range(first, last):
                    _multiply[encoding, lanes, gated=False](
                        rows, matrix, group, block
                    )

        sync_parallelize(some, tasks)
        rows.free()


@extensibility.register("mllama_gguf_fused_qkv")
struct ThreeBlockProducts:
    """Products with three matrices, one beside the other."""

    @staticmethod
    def execute[
        target: StaticString,
        first_encoding: StaticString,
        second_encoding: StaticString,
        third_encoding: StaticString,
        lanes: Int,
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        first_weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        second_weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        third_weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var first = _matrix[first_encoding](result, x, first_weights, 0)
        var second = _matrix[second_encoding](
            result, x, second_weights, first.columns
        )
        var third = _matrix[third_encoding](
            result, x, third_weights, first.columns + second.columns
        )
        _check_columns(result, first.columns + second.columns + third.columns)
        var rows = _quantized(x)
        var second_group = first.groups()
        var third_group = second_group + second.groups()
        var groups = third_group + third.groups()
        var tasks = _tasks(groups)

        def some(task: Int) {imm}:
            var first_group = task * groups // tasks
            var last_group = (task + 1) * groups // tasks
            for block in range(rows.blocks()):
                for group in range(first_group, last_group):
                    if group < second_group:
                        _multiply[first_encoding, lanes, gated=False](
                            rows, first, group, block
                        )
                    elif group < third_group:
                        _multiply[second_encoding, lanes, gated=False](
                            rows, second, group - second_group, block
                        )
                    else:
                        _multiply[third_encoding, lanes, gated=False](
                            rows, third, group - third_group, block
                        )

        sync_parallelize(some, tasks)
        rows.free()


@extensibility.register("mllama_gguf_fused_gate_up")
struct GatedBlockProduct:
    """`silu(x @ gate.T) * (x @ up.T)`."""

    @staticmethod
    def execute[
        target: StaticString,
        gate_encoding: StaticString,
        up_encoding: StaticString,
        lanes: Int,
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        gate_weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        up_weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var gate = _matrix[gate_encoding](result, x, gate_weights, 0)
        var up = _matrix[up_encoding](result, x, up_weights, 0)
        _check_columns(result, gate.columns)
        _check_columns(result, up.columns)
        var rows = _quantized(x)
        var groups = gate.groups()
        var tasks = _tasks(groups)

        def some(task: Int) {imm}:
            var first = task * groups // tasks
            var last = (task + 1) * groups // tasks
            for block in range(rows.blocks()):
                # One matrix after the other: each is read in one stretch.
                for group in range(first, last):
                    _multiply[gate_encoding, lanes, gated=False](
                        rows, gate, group, block
                    )
                for group in range(first, last):
                    _multiply[up_encoding, lanes, gated=True](rows, up, group, block)

        sync_parallelize(some, tasks)
        rows.free()


def _quantized(x: InputTensor[dtype=DType.float32, rank=2, ...]) -> Activations:
    return quantized(
        rebind[Floats](x.unsafe_ptr()), x.dim_size(0), x.dim_size(1), x.dim_size(1)
    )


def _matrix[
    encoding: StaticString
](
    result: OutputTensor[dtype=DType.float32, rank=2, ...],
    x: InputTensor[dtype=DType.float32, rank=2, ...],
    weights: InputTensor[dtype=DType.uint8, rank=2, ...],
    first_column: Int,
) raises -> Matrix:
    """A matrix whose products begin in a column of the result."""
    comptime assert (
        encoding == "q4_0" or encoding == "q4_k" or encoding == "q6_k"
    ), "the encoding must be q4_0, q4_k or q6_k"
    comptime size = Q6_K.SIZE if encoding == "q6_k" else Q4_K.SIZE
    if (
        x.dim_size(1) % SPAN != 0
        or weights.dim_size(1) != x.dim_size(1) // SPAN * size
        or result.dim_size(0) != x.dim_size(0)
    ):
        raise Error("the shapes of activations, blocks and result contradict each other")
    return Matrix(
        rebind[Bytes](weights.unsafe_ptr()),
        weights.dim_size(0),
        weights.dim_size(1),
        rebind[Floats](result.unsafe_ptr()).unsafe_offset(first_column),
        result.dim_size(1),
    )


def _check_columns(
    result: OutputTensor[dtype=DType.float32, rank=2, ...], columns: Int
) raises:
    if result.dim_size(1) != columns:
        raise Error("the result has another number of columns than the matrices")


def _tasks(groups: Int) -> Int:
    return min(groups, parallelism_level(None) * _TASKS_PER_CORE)


def _multiply[
    encoding: StaticString, lanes: Int, gated: Bool
](rows: Activations, matrix: Matrix, group: Int, block: Int):
    comptime if encoding == "q4_0":
        multiply_group[Q4_0, lanes, gated](rows, matrix, group, block)
    elif encoding == "q4_k":
        _multiply_faster[Q4_K, lanes, gated](rows, matrix, group, block)
    else:
        _multiply_faster[Q6_K, lanes, gated](rows, matrix, group, block)


def _multiply_faster[
    Format: SpanFormat, lanes: Int, gated: Bool
](rows: Activations, matrix: Matrix, group: Int, block: Int):
    if is_read_by_column(rows):
        multiply_columns[Format, lanes, gated](rows, matrix, group)
    else:
        multiply_group[Format, lanes, gated](rows, matrix, group, block)
