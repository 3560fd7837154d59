"""Custom op that multiplies activations with int8 matrices (W8A8), on CPUs.

Activations are quantized to int8 first, with one scale per token, as weights have one
scale per output column. The tests compare with a NumPy form,
`tests/kernels/int8_matmul.py`.

Reading order: `quantize` quantizes a token, `matmul` shares tokens among the cores and
multiplies tiles, `simd` has the dot products of int8, and `bounds` prepares weights for
CPUs without VNNI.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .simd import COLUMNS, BytePointer, FloatPointer, Simd
from .matmul import Matrix, Output, int8_matmul


@extensibility.register("mllama_int8_matmul")
struct Int8Matmul:
    """`x @ (weights * scales).T + addend`, the latter optional.

    `weights` are tiles of sixteen columns, as of `quantize_int8` in
    `ops/int8_matmul.py`; `addend` is `[tokens, columns]`, or one row for all tokens.
    """

    @staticmethod
    def execute[
        target: StaticString, simd_width: Int, has_vnni: Bool, has_addend: Bool
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        weights: InputTensor[dtype=DType.int8, rank=2, ...],
        scales: InputTensor[dtype=DType.float32, rank=1, ...],
        addend: InputTensor[dtype=DType.float32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert (
            simd_width == 8 or simd_width == 16
        ), "the SIMD width must be 8 or 16"
        var tokens = x.dim_size(0)
        var width = x.dim_size(1)
        var columns = weights.dim_size(0) * COLUMNS
        if width % COLUMNS != 0 or weights.dim_size(1) != width * COLUMNS:
            raise Error("the widths of activations and weights differ")
        if (
            scales.dim_size(0) != columns
            or result.dim_size(0) != tokens
            or result.dim_size(1) != columns
        ):
            raise Error("the shapes of weights, scales and result differ")
        var is_broadcast = addend.dim_size(0) == 1
        if has_addend and (
            addend.dim_size(1) != columns
            or not (is_broadcast or addend.dim_size(0) == tokens)
        ):
            raise Error("the shapes of result and addend differ")
        int8_matmul[Simd(simd_width, has_vnni), has_addend](
            rebind[FloatPointer](x.unsafe_ptr()),
            tokens,
            Matrix(
                rebind[BytePointer](weights.unsafe_ptr()),
                rebind[FloatPointer](scales.unsafe_ptr()),
                width,
                columns,
            ),
            Output(
                rebind[FloatPointer](result.unsafe_ptr()),
                columns,
                rebind[FloatPointer](addend.unsafe_ptr()),
                0 if is_broadcast else columns,
            ),
        )
