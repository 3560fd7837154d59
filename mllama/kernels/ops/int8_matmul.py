"""Products of activations with matrices of bytes, as an operation of a graph."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from max.dtype import DType
from max.graph import DeviceRef, TensorType, TensorValue, ops

from mllama.kernels.dispatch import uses_custom_ops, vector_width

MOJO_PACKAGE: Final = "int8_matmul"
"""The folder of the operation, for a graph that uses it."""

COLUMNS: Final = 16
"""Columns of a tile of bytes; widths and columns must be multiples of it."""


def supports(width: int, columns: int, dtype: DType, device: DeviceRef) -> bool:
    """Whether the operation can multiply with a matrix.

    Args:
        width: Of the activations.
        columns: Of the result.
        dtype: Of the activations.
        device: Where it is done.
    """
    fits = width % COLUMNS == columns % COLUMNS == 0
    return fits and dtype is DType.float32 and uses_custom_ops(device)


def tiled_shape(columns: int, width: int) -> tuple[int, int]:
    """Shape of a matrix of bytes in tiles."""
    return columns // COLUMNS, width * COLUMNS


def quantize_int8(
    weights: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """A matrix as bytes with a scale for each column of the product.

    Args:
        weights: ``[columns, width]``.

    Returns:
        The bytes, -127 to 127, ``[columns / 16, width * 16]``, in which four successive
        ones of sixteen columns lie side by side; and the scales ``[columns]``.
    """
    columns, width = weights.shape
    top = np.abs(weights).max(axis=1)
    inverse = np.float32(127) / np.where(top > 0, top, np.float32(1))
    levels = np.rint(weights * inverse[:, None]).astype(np.int8)
    tiles = levels.reshape(columns // COLUMNS, COLUMNS, width // 4, 4)
    ordered = np.ascontiguousarray(tiles.transpose(0, 2, 1, 3))
    return ordered.reshape(tiled_shape(columns, width)), top / np.float32(127)


def product(
    x: TensorValue,
    weights: TensorValue,
    scales: TensorValue,
    added: TensorValue | None = None,
) -> TensorValue:
    """``x @ (weights * scales).T + added``, ``x`` rounded to bytes row by row.

    Args:
        x: float32 ``[rows, width]``.
        weights: int8, as of :func:`quantize_int8`.
        scales: float32 ``[columns]``.
        added: float32 ``[columns]`` or ``[rows, columns]``.

    Returns:
        float32 ``[rows, columns]``.  A row that holds NaN or infinity is NaN.
    """
    addend = scales if added is None else added
    return ops.custom(
        "mllama_int8_matmul",
        x.device,
        [x, weights, scales, ops.reshape(addend, [-1, addend.shape[-1]])],
        [TensorType(DType.float32, [x.shape[0], scales.shape[0]], x.device)],
        {"lanes": vector_width(), "adds": added is not None},
    )[0].tensor
