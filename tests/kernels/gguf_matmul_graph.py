"""A graph of all GGUF matmul ops, and calls of each of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, ops

from mllama.kernels.dispatch import has_vnni, mojo_package, simd_width
from mllama.kernels.ops.gguf_matmul import MOJO_PACKAGE
from mllama.max_compat.compiler import ensure_default_mlir_context
from tests.kernels.simd_widths import use_kernels

Array = np.ndarray
Run = Callable[..., list[Array]]

FORMATS = (Kind.Q4_0, Kind.Q4_K, Kind.Q6_K)
QKV_FORMATS = (Kind.Q4_K, Kind.Q6_K, Kind.Q4_0)
"""Formats of the three matrices of a fused QKV."""
GATE_UP_FORMATS = (Kind.Q4_K, Kind.Q6_K)
"""Formats of the two matrices of a fused gate-up."""
CPU_DEVICE = DeviceRef.CPU()


def compile_ops(kernels: str) -> Run:
    """Compiles a graph of all ops and returns a function that runs it.

    The function takes the activations of each op, the GGUF blocks of each matrix and
    the number of columns of the fused QKV.  It returns the result of each op: the
    products of FORMATS, the fused QKV, the fused gate-up.

    Args:
        kernels: A value of the environment variable.
    """
    kinds = [*FORMATS, *QKV_FORMATS, *GATE_UP_FORMATS]
    inputs = [
        TensorType(DType.float32, (f"rows_{call}", f"width_{call}"), CPU_DEVICE)
        for call in range(5)
    ]
    inputs += [
        TensorType(DType.uint8, (f"columns_{i}", f"bytes_{i}"), CPU_DEVICE)
        for i in range(len(kinds))
    ]
    # The length of this tensor tells the graph the columns of a fused QKV together.
    inputs += [TensorType(DType.float32, ("all_columns",), CPU_DEVICE)]
    with (
        ensure_default_mlir_context(),
        Graph(
            "gguf_matmuls",
            input_types=inputs,
            custom_extensions=[mojo_package(MOJO_PACKAGE)],
        ) as graph,
    ):
        values = [value.tensor for value in graph.inputs]
        x, blocks, like = values[:5], values[5:-1], values[-1]

        def call(name: str, index: int, given: list, columns: object, **encodings):
            kind = TensorType(DType.float32, (x[index].shape[0], columns), CPU_DEVICE)
            named = {key: kind.name.lower() for key, kind in encodings.items()}
            with use_kernels(kernels):
                form = {"simd_width": simd_width(), "has_vnni": has_vnni()}
            return ops.custom(
                name, CPU_DEVICE, [x[index], *given], [kind], named | form
            )[0]

        results = [
            call("mllama_gguf_matmul", i, [blocks[i]], blocks[i].shape[0], encoding=k)
            for i, k in enumerate(FORMATS)
        ]
        results.append(
            call(
                "mllama_gguf_fused_qkv",
                3,
                blocks[3:6],
                like.shape[0],
                first_encoding=QKV_FORMATS[0],
                second_encoding=QKV_FORMATS[1],
                third_encoding=QKV_FORMATS[2],
            )
        )
        results.append(
            call(
                "mllama_gguf_fused_gate_up",
                4,
                blocks[6:],
                blocks[6].shape[0],
                gate_encoding=GATE_UP_FORMATS[0],
                up_encoding=GATE_UP_FORMATS[1],
            )
        )
        graph.output(*results)
        model = InferenceSession(devices=[CPU()]).load(graph)

    def execute(x: list[Array], blocks: list[Array], columns: int) -> list[Array]:
        given = [Buffer.from_numpy(array) for array in (*x, *blocks)]
        given.append(Buffer.from_numpy(np.empty(columns, np.float32)))
        return [result.to_numpy() for result in model.execute(*given)]

    return execute


def no_columns(kind: Kind) -> Array:
    """Returns a matrix of GGUF blocks without columns."""
    length, size = GGML_QUANT_SIZES[kind]
    return np.empty((0, 256 // length * size), np.uint8)


NO_TOKENS = np.empty((0, 256), np.float32)


def matmul(run: Run, x: Array, blocks: Array, kind: Kind) -> Array:
    """Runs the product with one matrix."""
    index = FORMATS.index(kind)
    given = [NO_TOKENS] * 5
    given[index] = x
    matrices = [no_columns(kind) for kind in (*FORMATS, *QKV_FORMATS, *GATE_UP_FORMATS)]
    matrices[index] = blocks
    return run(given, matrices, 0)[index]


def fused_qkv(run: Run, x: Array, blocks: list[Array]) -> Array:
    """Runs the fused QKV."""
    matrices = [no_columns(kind) for kind in FORMATS]
    matrices += [*blocks, *(no_columns(kind) for kind in GATE_UP_FORMATS)]
    columns = sum(len(matrix) for matrix in blocks)
    return run([*[NO_TOKENS] * 3, x, NO_TOKENS], matrices, columns)[3]


def fused_gate_up(run: Run, x: Array, blocks: list[Array]) -> Array:
    """Runs the fused gate-up."""
    matrices = [no_columns(kind) for kind in (*FORMATS, *QKV_FORMATS)]
    return run([*[NO_TOKENS] * 4, x], [*matrices, *blocks], 0)[4]
