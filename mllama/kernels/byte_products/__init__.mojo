"""Products of activations with matrices of bytes, as an operation of MAX graphs.

Rows of activations become bytes first, each with a scale of its own, as every column of
the matrix has one.  NumPy's form, which the tests compare with, is
`tests/kernels/byte_products.py`.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .lanes import COLUMNS, Bytes, Floats
from .products import Matrix, multiply


@extensibility.register("mllama_byte_product")
struct ByteProduct:
    """`x @ (bytes * scales).T`, with a bias if there is one.

    `bytes` are tiles of sixteen columns, see `as_bytes` in `byte_products.py`.
    """

    @staticmethod
    def execute[
        target: StaticString, lanes: Int, has_bias: Bool
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        bytes: InputTensor[dtype=DType.int8, rank=2, ...],
        scales: InputTensor[dtype=DType.float32, rank=1, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert lanes == 8 or lanes == 16, "vectors have 8 or 16 lanes"
        var width = x.dim_size(1)
        var columns = bytes.dim_size(0) * COLUMNS
        if width % COLUMNS != 0 or bytes.dim_size(1) != width * COLUMNS:
            raise Error("the widths of activations and bytes contradict each other")
        if (
            scales.dim_size(0) != columns
            or (has_bias and bias.dim_size(0) != columns)
            or result.dim_size(0) != x.dim_size(0)
            or result.dim_size(1) != columns
        ):
            raise Error("the shapes of bytes, scales, bias and result differ")
        multiply[lanes, has_bias](
            rebind[Floats](x.unsafe_ptr()),
            x.dim_size(0),
            Matrix(
                rebind[Bytes](bytes.unsafe_ptr()),
                rebind[Floats](scales.unsafe_ptr()),
                rebind[Floats](bias.unsafe_ptr()),
                width,
                columns,
            ),
            rebind[Floats](result.unsafe_ptr()),
        )
