"""Custom ops that quantize weights to GGUF blocks, on CPUs.

Layouts and searches are ggml's (`ggml-quants.c`). The tests compare with a NumPy form,
`tests/kernels/gguf_quantize.py`.

Reading order: `quantize` shares a matrix among the cores, and `q4_0`, `q4_k`, `q6_k`
quantize a block each.
"""

import extensibility

from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .q4_0 import Q4_0
from .q4_k import Q4_K
from .q6_k import Q6_K
from .quantize import quantize_matrix


@extensibility.register("mllama_gguf_quantize_q4_0")
struct QuantizeQ4_0:
    """Quantizes a matrix to q4_0."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        blocks: OutputTensor[dtype=DType.uint8, rank=2, ...],
        statuses: OutputTensor[dtype=DType.uint8, rank=1, ...],
        weights: InputTensor[rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        quantize_matrix[Q4_0](blocks, statuses, weights)


@extensibility.register("mllama_gguf_quantize_q4_k")
struct QuantizeQ4_K:
    """Quantizes a matrix to q4_k."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        blocks: OutputTensor[dtype=DType.uint8, rank=2, ...],
        statuses: OutputTensor[dtype=DType.uint8, rank=1, ...],
        weights: InputTensor[rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        quantize_matrix[Q4_K](blocks, statuses, weights)


@extensibility.register("mllama_gguf_quantize_q6_k")
struct QuantizeQ6_K:
    """Quantizes a matrix to q6_k."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        blocks: OutputTensor[dtype=DType.uint8, rank=2, ...],
        statuses: OutputTensor[dtype=DType.uint8, rank=1, ...],
        weights: InputTensor[rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        quantize_matrix[Q6_K](blocks, statuses, weights)
