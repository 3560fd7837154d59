"""Rows of floats to blocks of GGUF files, by MAX's engine on every core.

One graph for each element type makes all three formats: compiling takes a quarter of a
minute once on a machine, then some four seconds in each process.
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
from mllama.kernels.dispatch import operations

Bytes = npt.NDArray[np.uint8]

FORMATS: Final = (
    GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q4_K,
    GGMLQuantizationType.Q6_K,
)
"""In the order of the graph's inputs."""

SOURCES: Final = {"float32": "float32", "float16": "float16", "uint16": "bfloat16"}
"""NumPy's element types of weights and MAX's; uint16 holds the bits of bfloat16."""

_MOJO_PACKAGE = operations("gguf_quantize")
_NOT_FINITE = 1
"""What the operations say of rows with NaN or infinity, see ``rows.mojo``."""

_one_at_a_time = threading.Lock()


def prepare(dtype: npt.DTypeLike) -> None:
    """Compiles what quantizes weights of an element type, if that is still to be done.

    It happens in a thread, since a compilation can't be interrupted: Ctrl-C ends the
    program meanwhile.

    Args:
        dtype: float32, float16, or uint16 for bfloat16.
    """
    # The thread that imports MAX's compiler must be the one that lives longest.
    importlib.import_module("max.graph")
    thread = ThreadPoolExecutor(1, "mllama-compiling")
    compiled = thread.submit(_compiled, np.dtype(dtype).name)
    thread.shutdown(wait=False)
    compiled.result()


def quantize(
    weights: npt.NDArray[Any], encoding: GGMLQuantizationType, name: str = "the matrix"
) -> Bytes:
    """Quantizes a matrix row by row, on every core.

    Args:
        weights: ``[rows, width]``: float32, float16, or the bits of bfloat16 in uint16.
        encoding: One of ``FORMATS``.
        name: The matrix in messages.

    Returns:
        uint8 ``[rows, bytes of a row]``.

    Raises:
        CheckpointError: If a weight is not finite, or too large for the format.
        ValueError: If the weights are of another type or shape.
    """
    length, _ = GGML_QUANT_SIZES[encoding]
    if weights.dtype.name not in SOURCES or weights.ndim != 2:
        raise ValueError(f"{weights.ndim} dimensions of {weights.dtype} are no matrix")
    if not weights.shape[1] or weights.shape[1] % length:
        raise ValueError(f"a width of {weights.shape[1]} is no multiple of {length}")
    model = _compiled(weights.dtype.name)
    inputs = [_buffer(np.empty((0, 256), weights.dtype)) for _ in FORMATS]
    place = FORMATS.index(encoding)
    inputs[place] = _buffer(weights)
    outputs = model.execute(*inputs)
    faults = outputs[2 * place + 1].to_numpy()
    if faults.any():
        finite = not (faults == _NOT_FINITE).any()
        raise unfit(name, encoding, finite=finite)
    blocks: Bytes = outputs[2 * place].to_numpy()
    return blocks


def unfit(name: str, encoding: GGMLQuantizationType, *, finite: bool) -> Exception:
    """The error for a tensor that a format can't hold.

    Args:
        name: The tensor's.
        encoding: The format.
        finite: Whether all values are finite numbers.
    """
    if finite:
        return CheckpointError(
            f"{name} holds values that are too large for {encoding.name.lower()}; "
            "serve the checkpoint in float32 or bfloat16"
        )
    return CheckpointError(
        f"{name} holds NaN or infinity; it is damaged, so download it again"
    )


def _buffer(weights: npt.NDArray[Any]) -> Any:
    """The same memory as MAX sees it, if its rows lie one after the other."""
    from max.driver import Buffer
    from max.dtype import DType

    rows = np.require(weights, requirements=["C", "A"])
    return Buffer.from_numpy(rows).view(DType[SOURCES[rows.dtype.name]], rows.shape)


def _compiled(source: str) -> Any:
    with _one_at_a_time:
        return _model(source)


@functools.cache
def _model(source: str) -> Any:
    """What quantizes weights of an element type of ``SOURCES``."""
    from max.driver import CPU
    from max.dtype import DType
    from max.engine import InferenceSession
    from max.graph import DeviceRef, Graph, TensorType, ops

    from mllama.max_compat.compiler import ensure_default_mlir_context

    cpu = DeviceRef.CPU()
    dtype = DType[SOURCES[source]]
    inputs = [
        TensorType(dtype, (f"rows_{kind.name}", f"width_{kind.name}"), cpu)
        for kind in FORMATS
    ]
    with (
        ensure_default_mlir_context(),
        Graph(
            f"mllama_gguf_quantizers_{SOURCES[source]}",
            input_types=inputs,
            custom_extensions=[_MOJO_PACKAGE],
        ) as graph,
    ):
        outputs = []
        for kind, given in zip(FORMATS, graph.inputs, strict=True):
            rows, width = given.tensor.shape
            length, size = GGML_QUANT_SIZES[kind]
            outputs += ops.custom(
                f"mllama_gguf_quantize_{kind.name.lower()}",
                cpu,
                [given],
                [
                    TensorType(DType.uint8, (rows, width // length * size), cpu),
                    TensorType(DType.uint8, (rows,), cpu),
                ],
            )
        graph.output(*outputs)
        return InferenceSession(devices=[CPU()]).load(graph)
