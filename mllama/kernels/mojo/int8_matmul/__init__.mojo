"""Products of activations with matrices of bytes, as an operation of MAX graphs.

Rows of activations become bytes first, each with a scale of its own, as every column of
the matrix has one.  NumPy's form, which the tests compare with, is
`tests/kernels/int8_matmul.py`.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .lanes import COLUMNS, Bytes, Floats
from .products import Matrix, Sums, multiply


@extensibility.register("mllama_int8_matmul")
struct ByteProduct:
    """`x @ (bytes * scales).T`, with something added if there is something.

    `bytes` are tiles of sixteen columns, see `quantize_int8` in `byte_products.py`; `added` is
    `[rows, columns]`, or one row for all.
    """

    @staticmethod
    def execute[
        target: StaticString, lanes: Int, adds: Bool
    ](
        result: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        bytes: InputTensor[dtype=DType.int8, rank=2, ...],
        scales: InputTensor[dtype=DType.float32, rank=1, ...],
        added: InputTensor[dtype=DType.float32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert lanes == 8 or lanes == 16, "vectors have 8 or 16 lanes"
        var rows = x.dim_size(0)
        var width = x.dim_size(1)
        var columns = bytes.dim_size(0) * COLUMNS
        if width % COLUMNS != 0 or bytes.dim_size(1) != width * COLUMNS:
            raise Error("the widths of activations and bytes contradict each other")
        if (
            scales.dim_size(0) != columns
            or result.dim_size(0) != rows
            or result.dim_size(1) != columns
        ):
            raise Error("the shapes of bytes, scales and result differ")
        var one_for_all = added.dim_size(0) == 1
        if adds and (
            added.dim_size(1) != columns
            or not (one_for_all or added.dim_size(0) == rows)
        ):
            raise Error("the shapes of the result and of what is added differ")
        multiply[lanes, adds](
            rebind[Floats](x.unsafe_ptr()),
            rows,
            Matrix(
                rebind[Bytes](bytes.unsafe_ptr()),
                rebind[Floats](scales.unsafe_ptr()),
                width,
                columns,
            ),
            Sums(
                rebind[Floats](result.unsafe_ptr()),
                columns,
                rebind[Floats](added.unsafe_ptr()),
                0 if one_for_all else columns,
            ),
        )
