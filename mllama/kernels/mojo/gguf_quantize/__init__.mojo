"""Block quantizers of GGUF files, as operations of MAX graphs.

Layouts and searches are those of ggml (`ggml-quants.c`); NumPy's form of them, which
the tests compare with, is `tests/kernels/reference.py`.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .q4_0 import Q4_0
from .q4_k import Q4_K
from .q6_k import Q6_K
from .rows import quantize_rows


@extensibility.register("mllama_gguf_quantize_q4_0")
struct QuantizeQ4_0:
    """Rows of floats to blocks of q4_0."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        blocks: OutputTensor[dtype=DType.uint8, rank=2, ...],
        faults: OutputTensor[dtype=DType.uint8, rank=1, ...],
        weights: InputTensor[rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        quantize_rows[Q4_0](blocks, faults, weights)


@extensibility.register("mllama_gguf_quantize_q4_k")
struct QuantizeQ4_K:
    """Rows of floats to blocks of q4_k."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        blocks: OutputTensor[dtype=DType.uint8, rank=2, ...],
        faults: OutputTensor[dtype=DType.uint8, rank=1, ...],
        weights: InputTensor[rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        quantize_rows[Q4_K](blocks, faults, weights)


@extensibility.register("mllama_gguf_quantize_q6_k")
struct QuantizeQ6_K:
    """Rows of floats to blocks of q6_k."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        blocks: OutputTensor[dtype=DType.uint8, rank=2, ...],
        faults: OutputTensor[dtype=DType.uint8, rank=1, ...],
        weights: InputTensor[rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        quantize_rows[Q6_K](blocks, faults, weights)
