"""T7: a selection behind a linear layer, which a GPU turned into zeros.

In a layer of the text graph, ``ops.where`` was to keep the states of tokens without an
image, and made zeros of them (``docs/gpu.md``).  There it is part of a matmul's kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops
from max.nn.layer import Module
from max.nn.linear import Linear

from benchmarks.gpu_fault.comparison import compare, to_array
from benchmarks.gpu_fault.report import Result
from mllama.utils.bfloat16 import from_bfloat16, to_bfloat16

NAME = "mllama_selection"
"""The name of the graph."""

_INNER, _WIDTH, _TOKENS = 512, 256, 24
"""The widths of the demo model's feed-forward network, and a prompt's tokens."""


def _dtype(device: DeviceRef) -> DType:
    """Returns the type of states: bfloat16 takes a CPU minutes to compile."""
    return DType.float32 if device.is_cpu() else DType.bfloat16


class Selections(Module):
    """Two linear layers with a residual: one selects by a boolean, one by a factor."""

    def __init__(self, device: DeviceRef) -> None:
        super().__init__()
        self.by_boolean = Linear(_INNER, _WIDTH, _dtype(device), device)
        self.by_factor = Linear(_INNER, _WIDTH, _dtype(device), device)

    def __call__(
        self,
        states: TensorValue,
        residual: TensorValue,
        mask: TensorValue,
        factor: TensorValue,
    ) -> tuple[TensorValue, TensorValue]:
        """Returns the residual, with the layer's product where the mask says so.

        Args:
            states: ``[tokens, inner]``.
            residual: ``[tokens, width]``.
            mask: bool ``[tokens, 1]``.
            factor: ``[tokens, 1]``, 1 where the mask is true, else 0.
        """
        updated = residual + self.by_boolean(states)
        return (
            ops.where(mask, updated, residual),
            residual + self.by_factor(states) * factor,
        )


def trace(device: DeviceRef) -> Graph:
    """Returns the graph."""
    network = Selections(device)
    for name, weight in network.raw_state_dict().items():
        weight.name, weight.align = name, 1
    return Graph(
        NAME,
        network,
        input_types=[
            TensorType(_dtype(device), ["tokens", _INNER], device),
            TensorType(_dtype(device), ["tokens", _WIDTH], device),
            TensorType(DType.bool, ["tokens", 1], device),
            TensorType(_dtype(device), ["tokens", 1], device),
        ],
    )


def _made_up(seed: int, *shape: int) -> np.ndarray:
    """Returns float32 values that bfloat16 represents exactly."""
    values = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    return from_bfloat16(to_bfloat16(values))


def weights(device: DeviceRef) -> dict[str, Buffer]:
    """Returns the weights of the graph by name."""
    return {
        f"{name}.weight": _buffer(matrix, device)
        for name, matrix in _matrices().items()
    }


def _matrices() -> dict[str, np.ndarray]:
    scale = np.float32(1 / 16)
    return {
        name: _made_up(seed, _WIDTH, _INNER) * scale
        for seed, name in enumerate(("by_boolean", "by_factor"))
    }


def _buffer(values: np.ndarray, device: DeviceRef) -> Buffer:
    """Returns values on the host, in the type that the device's graph has."""
    if _dtype(device) is DType.float32:
        return Buffer.from_numpy(values)
    return Buffer.from_numpy(to_bfloat16(values)).view(DType.bfloat16)


def check_selection(graph: Any, device: Device) -> Result:
    """Runs the graph and compares both results with NumPy's.

    Args:
        graph: The loaded graph.
        device: The device that it runs on.
    """
    states, residual = _made_up(2, _TOKENS, _INNER), _made_up(3, _TOKENS, _WIDTH)
    mask = (np.arange(_TOKENS) % 3 != 0)[:, None]
    ref = DeviceRef.from_device(device)
    inputs = [
        _buffer(states, ref).to(device),
        _buffer(residual, ref).to(device),
        Buffer.from_numpy(mask).to(device),
        _buffer(mask.astype(np.float32), ref).to(device),
    ]
    outputs = graph.execute(*inputs)
    device.synchronize()
    figures, wrong = {}, []
    for (name, matrix), output in zip(_matrices().items(), outputs, strict=True):
        expected = residual + (states @ matrix.T) * mask
        comparison = compare(to_array(output), expected, {"zeros": expected * 0})
        figures[name] = comparison.to_dict()
        if not comparison.is_equal:
            wrong.append(f"{name}: {comparison}")
    return Result.of("T7", figures, wrong)
