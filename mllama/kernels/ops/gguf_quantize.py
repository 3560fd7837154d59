"""Quantizes weights to GGUF blocks with MAX's engine, on all cores.

Each data type has one graph, which quantizes to all three formats.  Compiling it takes
about 15 seconds once on a machine, and loading it about four in each process.
"""

from __future__ import annotations

import functools
import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from mllama.errors import CheckpointError
from mllama.kernels.dispatch import mojo_package

Bytes = npt.NDArray[np.uint8]

FORMATS: Final = (
    GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q4_K,
    GGMLQuantizationType.Q6_K,
)
"""The GGUF formats, in the order of the graph's inputs."""

SOURCE_DTYPES: Final = {
    "float32": "float32",
    "float16": "float16",
    "uint16": "bfloat16",
}
"""MAX's data type for each of NumPy's; uint16 stands for the bits of bfloat16."""

_MOJO_PACKAGE = mojo_package("gguf_quantize")
_NOT_FINITE = 1
"""Status of a row that contains NaN or infinity, see ``quantize.mojo``."""

_compile_lock = threading.Lock()


def compile_quantizer(dtype: npt.DTypeLike) -> None:
    """Compiles the graph that quantizes weights of a data type, unless it is compiled.

    The compilation runs in a thread since it can't be interrupted: this way, Ctrl-C
    ends the program at once.

    Args:
        dtype: float32, float16, or uint16 for bfloat16.
    """
    # The thread that imports MAX's compiler must be the one that lives longest.
    importlib.import_module("max.graph")
    thread = ThreadPoolExecutor(1, "mllama-compiling")
    compiled = thread.submit(_compiled_model, np.dtype(dtype).name)
    thread.shutdown(wait=False)
    compiled.result()


def quantize(
    weights: npt.NDArray[Any], encoding: GGMLQuantizationType, name: str = "the matrix"
) -> Bytes:
    """Quantizes a matrix to GGUF blocks, on all cores.

    Args:
        weights: ``[rows, width]``: float32, float16, or the bits of bfloat16 in uint16.
        encoding: One of ``FORMATS``.
        name: Name of the matrix in error messages.

    Returns:
        uint8 ``[rows, bytes of a row]``.

    Raises:
        CheckpointError: If a weight is not finite, or too large for the format.
        ValueError: If the weights have another data type or shape.
    """
    length, _ = GGML_QUANT_SIZES[encoding]
    if weights.dtype.name not in SOURCE_DTYPES or weights.ndim != 2:
        raise ValueError(
            f"weights must be a matrix of float32, float16 or uint16, not "
            f"{weights.ndim} dimensions of {weights.dtype}"
        )
    if not weights.shape[1] or weights.shape[1] % length:
        raise ValueError(
            f"the width of a matrix must be a multiple of {length}, not "
            f"{weights.shape[1]}"
        )
    model = _compiled_model(weights.dtype.name)
    inputs = [_buffer(np.empty((0, 256), weights.dtype)) for _ in FORMATS]
    index = FORMATS.index(encoding)
    inputs[index] = _buffer(weights)
    outputs = model.execute(*inputs)
    statuses = outputs[2 * index + 1].to_numpy()
    if statuses.any():
        finite = not (statuses == _NOT_FINITE).any()
        raise quantization_error(name, encoding, finite=finite)
    blocks: Bytes = outputs[2 * index].to_numpy()
    return blocks


def quantization_error(
    name: str, encoding: GGMLQuantizationType, *, finite: bool
) -> Exception:
    """Returns the error for a tensor that a format can't represent.

    Args:
        name: Name of the tensor.
        encoding: The format.
        finite: Whether all values are finite.
    """
    if finite:
        return CheckpointError(
            f"{name} contains values that are too large for {encoding.name.lower()}; "
            "serve the checkpoint in float32 or bfloat16"
        )
    return CheckpointError(
        f"{name} contains NaN or infinity; it is damaged, so download it again"
    )


def _buffer(weights: npt.NDArray[Any]) -> Any:
    """Returns a MAX buffer of the same memory, or of a copy if it isn't contiguous."""
    from max.driver import Buffer
    from max.dtype import DType

    contiguous = np.require(weights, requirements=["C", "A"])
    return Buffer.from_numpy(contiguous).view(
        DType[SOURCE_DTYPES[contiguous.dtype.name]], contiguous.shape
    )


def _compiled_model(source: str) -> Any:
    with _compile_lock:
        return _model(source)


@functools.cache
def _model(source: str) -> Any:
    """Compiles the graph for a data type of ``SOURCE_DTYPES``."""
    from max.driver import CPU
    from max.dtype import DType
    from max.engine import InferenceSession
    from max.graph import DeviceRef, Graph, TensorType, ops

    from mllama.max_compat.compiler import ensure_default_mlir_context
    from mllama.max_compat.mojo_packages import built_mojo_package

    cpu = DeviceRef.CPU()
    dtype = DType[SOURCE_DTYPES[source]]
    inputs = [
        TensorType(dtype, (f"rows_{kind.name}", f"width_{kind.name}"), cpu)
        for kind in FORMATS
    ]
    with (
        ensure_default_mlir_context(),
        Graph(
            f"mllama_gguf_quantizers_{SOURCE_DTYPES[source]}",
            input_types=inputs,
            custom_extensions=[built_mojo_package(_MOJO_PACKAGE)],
        ) as graph,
    ):
        outputs = []
        for kind, weights in zip(FORMATS, graph.inputs, strict=True):
            rows, width = weights.tensor.shape
            length, size = GGML_QUANT_SIZES[kind]
            outputs += ops.custom(
                f"mllama_gguf_quantize_{kind.name.lower()}",
                cpu,
                [weights],
                [
                    TensorType(DType.uint8, (rows, width // length * size), cpu),
                    TensorType(DType.uint8, (rows,), cpu),
                ],
            )
        graph.output(*outputs)
        return InferenceSession(devices=[CPU()]).load(graph)
