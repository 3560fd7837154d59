"""Custom ops that multiply activations with matrices of GGUF blocks, on CPUs.

GGUF blocks are read in place, in ggml's layout. Activations are quantized to int8
first, as in ggml, with one scale for every 256 values. The tests compare with a NumPy
form, `tests/kernels/gguf_matmul.py`. `simd_width` is the number of columns of a vector:
8 with AVX2 and AVX-VNNI, 16 with AVX-512. `has_vnni` is true for the last two.

Reading order:

- `quantize` quantizes activations; `formats` has the interface of a GGUF format.
- `matmul` multiplies any number of tokens with groups of sixteen columns, which a
  format (`q4_0`, `q4_k`, `q6_k`) unpacks; `simd` has the vector operations of this
  layout, columns side by side.
- `gemv` multiplies a single token column by column; `super_blocks` has the vector
  operations of that layout, a column's weights side by side.
- `prefetch` has the prefetches of both.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from max.gpu.host import DeviceContext
from max.runtime.asyncrt import parallelism_level

from .gemv import uses_gemv, gemv_group
from .formats import GemvFormat
from .simd import SUPER_BLOCK, BytePointer, FloatPointer, Simd
from .matmul import Activations, Matrix, multiply_group, quantize_activations
from .q4_0 import Q4_0
from .q4_k import Q4_K
from .q6_k import Q6_K

comptime _TASKS_PER_CORE = 4
"""More tasks than cores, so that cores finish together even if another program slows
one down."""


@extensibility.register("mllama_gguf_matmul")
struct GGUFMatmul:
    """`x @ weights.T`."""

    @staticmethod
    def execute[
        target: StaticString, encoding: StaticString, simd_width: Int, has_vnni: Bool
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var matrix = _matrix[encoding](result, x, weights, 0)
        _check_columns(result, matrix.columns)
        var activations = _quantize(x)
        var groups = matrix.groups()

        def work(first: Int, last: Int, token_block: Int) {imm}:
            for group in range(first, last):
                _multiply[encoding, Simd(simd_width, has_vnni), gated=False](
                    activations, matrix, group, token_block
                )

        _share_groups(work, groups, activations.token_blocks())
        activations.free()


@extensibility.register("mllama_gguf_fused_qkv")
struct FusedQKV:
    """The products with three matrices, side by side."""

    @staticmethod
    def execute[
        target: StaticString,
        first_encoding: StaticString,
        second_encoding: StaticString,
        third_encoding: StaticString,
        simd_width: Int,
        has_vnni: Bool,
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        first_weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        second_weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        third_weights: InputTensor[dtype=DType.uint8, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var first = _matrix[first_encoding](result, x, first_weights, 0)
        var second = _matrix[second_encoding](result, x, second_weights, first.columns)
        var third = _matrix[third_encoding](
            result, x, third_weights, first.columns + second.columns
        )
        _check_columns(result, first.columns + second.columns + third.columns)
        var activations = _quantize(x)
        var second_group = first.groups()
        var third_group = second_group + second.groups()
        var groups = third_group + third.groups()

        def work(first_group: Int, last_group: Int, token_block: Int) {imm}:
            for group in range(first_group, last_group):
                if group < second_group:
                    _multiply[first_encoding, Simd(simd_width, has_vnni), gated=False](
                        activations, first, group, token_block
                    )
                elif group < third_group:
                    _multiply[second_encoding, Simd(simd_width, has_vnni), gated=False](
                        activations, second, group - second_group, token_block
                    )
                else:
                    _multiply[third_encoding, Simd(simd_width, has_vnni), gated=False](
                        activations, third, group - third_group, token_block
                    )

        _share_groups(work, groups, activations.token_blocks())
        activations.free()


@extensibility.register("mllama_gguf_fused_gate_up")
struct FusedGateUp:
    """`silu(x @ gate.T) * (x @ up.T)`."""

    @staticmethod
    def execute[
        target: StaticString,
        gate_encoding: StaticString,
        up_encoding: StaticString,
        simd_width: Int,
        has_vnni: Bool,
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
        var activations = _quantize(x)
        var groups = gate.groups()

        def work(first: Int, last: Int, token_block: Int) {imm}:
            # One matrix after the other, so that each is read sequentially.
            for group in range(first, last):
                _multiply[gate_encoding, Simd(simd_width, has_vnni), gated=False](
                    activations, gate, group, token_block
                )
            for group in range(first, last):
                _multiply[up_encoding, Simd(simd_width, has_vnni), gated=True](
                    activations, up, group, token_block
                )

        _share_groups(work, groups, activations.token_blocks())
        activations.free()


def _quantize(x: InputTensor[dtype=DType.float32, rank=2, ...]) -> Activations:
    return quantize_activations(
        rebind[FloatPointer](x.unsafe_ptr()),
        x.dim_size(0),
        x.dim_size(1),
        x.dim_size(1),
    )


def _matrix[
    encoding: StaticString
](
    result: OutputTensor[dtype=DType.float32, rank=2, ...],
    x: InputTensor[dtype=DType.float32, rank=2, ...],
    weights: InputTensor[dtype=DType.uint8, rank=2, ...],
    first_column: Int,
) raises -> Matrix:
    """Returns a matrix whose products begin at `first_column` of the result.

    Raises:
        Error: If the shapes don't match.
    """
    comptime assert (
        encoding == "q4_0" or encoding == "q4_k" or encoding == "q6_k"
    ), "the encoding must be q4_0, q4_k or q6_k"
    # q4_0 and q4_k take the same number of bytes.
    comptime size = (
        Q6_K.SUPER_BLOCK_BYTES if encoding == "q6_k" else Q4_K.SUPER_BLOCK_BYTES
    )
    if (
        x.dim_size(1) % SUPER_BLOCK != 0
        or weights.dim_size(1) != x.dim_size(1) // SUPER_BLOCK * size
        or result.dim_size(0) != x.dim_size(0)
    ):
        raise Error("the shapes of activations, GGUF blocks and result don't match")
    return Matrix(
        rebind[BytePointer](weights.unsafe_ptr()),
        weights.dim_size(0),
        weights.dim_size(1),
        rebind[FloatPointer](result.unsafe_ptr()).unsafe_offset(first_column),
        result.dim_size(1),
    )


def _check_columns(
    result: OutputTensor[dtype=DType.float32, rank=2, ...], columns: Int
) raises:
    if result.dim_size(1) != columns:
        raise Error("the result and the matrices differ in their number of columns")


def _share_groups[
    Work: def(Int, Int, Int) -> None
](work: Work, groups: Int, token_blocks: Int):
    """Runs the work on groups of columns, shared among the cores.

    Args:
        work: Multiplies groups `first` to `last` (exclusive) with a block of tokens;
            its arguments are `first`, `last` and the block.
        groups: Number of groups.
        token_blocks: Number of blocks of tokens.
    """
    var tasks = min(groups, parallelism_level(None) * _TASKS_PER_CORE)

    def run(task: Int) {imm}:
        var first = task * groups // tasks
        var last = (task + 1) * groups // tasks
        for token_block in range(token_blocks):
            work(first, last, token_block)

    sync_parallelize(run, tasks)


def _multiply[
    encoding: StaticString, simd: Simd, gated: Bool
](activations: Activations, matrix: Matrix, group: Int, token_block: Int):
    comptime if encoding == "q4_0":
        multiply_group[Q4_0, simd, gated](activations, matrix, group, token_block)
    elif encoding == "q4_k":
        _multiply_k_quants[Q4_K, simd, gated](activations, matrix, group, token_block)
    else:
        _multiply_k_quants[Q6_K, simd, gated](activations, matrix, group, token_block)


def _multiply_k_quants[
    Format: GemvFormat, simd: Simd, gated: Bool
](activations: Activations, matrix: Matrix, group: Int, token_block: Int):
    if uses_gemv(activations):
        gemv_group[Format, simd.width, gated](activations, matrix, group)
    else:
        multiply_group[Format, simd, gated](activations, matrix, group, token_block)
