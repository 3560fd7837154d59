"""Linear layers in float32 on CPUs: MAX's matmul, compiled once for all of them.

MAX compiles its matmul anew for each pair of widths and for each operation that it
fuses into it, and each takes seconds. Here widths, bias and activation are known at run
time only, which doesn't make a large product slower.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from layout import Coord, TileTensor
from layout.tile_layout import row_major
from linalg.matmul.cpu import matmul
from max.gpu.host import DeviceContext
from nn.activations import gelu

comptime FloatPointer = Pointer[Float32, MutUntrackedOrigin]


@extensibility.register("mllama_float_matmul")
struct FloatMatmul:
    """`x @ weights.T + bias`, and the exact GELU of it; bias and GELU are optional."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        weights: InputTensor[dtype=DType.float32, rank=2, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        has_bias: Scalar[DType.bool],
        has_gelu: Scalar[DType.bool],
        ctx: DeviceContext,
    ) raises:
        var tokens = x.dim_size(0)
        var width = x.dim_size(1)
        var columns = weights.dim_size(0)
        if (
            weights.dim_size(1) != width
            or result.dim_size(0) != tokens
            or result.dim_size(1) != columns
        ):
            raise Error("the shapes of activations, weights and result don't match")
        if has_bias and bias.dim_size(0) != columns:
            raise Error("the bias must have one value for each column")
        _multiply(
            rebind[FloatPointer](x.unsafe_ptr()),
            rebind[FloatPointer](weights.unsafe_ptr()),
            rebind[FloatPointer](bias.unsafe_ptr()),
            rebind[FloatPointer](result.unsafe_ptr()),
            tokens,
            width,
            columns,
            Bool(has_bias),
            Bool(has_gelu),
        )


@no_inline
def _multiply(
    x: FloatPointer,
    weights: FloatPointer,
    bias: FloatPointer,
    result: FloatPointer,
    tokens: Int,
    width: Int,
    columns: Int,
    has_bias: Bool,
    has_gelu: Bool,
) raises:
    """Multiplies `[tokens, width]` with `[columns, width]`."""

    @__parameter
    @always_inline
    @__copy_capture(bias, result, columns, has_bias, has_gelu)
    def finish[
        dtype: DType, width: SIMDLength, *, alignment: Int = 1
    ](position: Coord, product: SIMD[dtype, width]):
        var token = Int(position[0].value())
        var column = Int(position[1].value())
        _finish[width](
            rebind[SIMD[DType.float32, width]](product),
            bias.unsafe_offset(column),
            result.unsafe_offset(token * columns + column),
            has_bias,
            has_gelu,
        )

    # The kernel for CPUs itself: that for any device would have the compiler read all
    # of MAX's matmuls for GPUs.
    matmul[transpose_b=True, elementwise_lambda_fn=finish](
        TileTensor(result, row_major(Coord(tokens, columns))),
        TileTensor(x, row_major(Coord(tokens, width))).as_imm(),
        TileTensor(weights, row_major(Coord(columns, width))).as_imm(),
        kernel_type_m=0,
    )


@no_inline
def _finish[
    width: SIMDLength
](
    product: SIMD[DType.float32, width],
    bias: FloatPointer,
    result: FloatPointer,
    has_bias: Bool,
    has_gelu: Bool,
):
    """Stores a vector of the result; not inlined into each of MAX's many tiles."""
    var value = product
    if has_bias:
        value += bias.unsafe_load[width=width, alignment=4](0)
    if has_gelu:
        value = gelu(value)
    result.unsafe_store[alignment=4](0, value)
