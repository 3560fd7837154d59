"""Adds a custom op to a graph that multiplies activations by int8 matrices (W8A8)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from max.dtype import DType
from max.graph import DeviceRef, TensorType, TensorValue, ops

from mllama.kernels.dispatch import has_vnni, simd_width, uses_custom_ops

MOJO_PACKAGE: Final = "int8_matmul"
"""Mojo package of this op, for graphs that use it."""

COLUMNS: Final = 16
"""Columns of a tile; widths and numbers of columns must be multiples of it."""


def supports(width: int, columns: int, dtype: DType, device: DeviceRef) -> bool:
    """Returns True if the op supports a product.

    Args:
        width: Width of the activations.
        columns: Columns of the result.
        dtype: Data type of the activations.
        device: Device of the product.
    """
    fits = width % COLUMNS == columns % COLUMNS == 0
    return fits and dtype is DType.float32 and uses_custom_ops(device)


def tiled_shape(columns: int, width: int) -> tuple[int, int]:
    """Returns the shape of an int8 matrix in tiles."""
    return columns // COLUMNS, width * COLUMNS


def quantize_int8(
    weights: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantizes a matrix to int8 with one scale per output column.

    Args:
        weights: ``[columns, width]``.

    Returns:
        The int8 weights, -127 to 127, in tiles ``[columns / 16, width * 16]``, in which
        four successive weights of sixteen columns lie side by side; and the scales
        ``[columns]``.
    """
    columns, width = weights.shape
    largest = np.abs(weights).max(axis=1)
    inverse = np.float32(127) / np.where(largest > 0, largest, np.float32(1))
    levels = np.rint(weights * inverse[:, None]).astype(np.int8)
    tiles = levels.reshape(columns // COLUMNS, COLUMNS, width // 4, 4)
    ordered = np.ascontiguousarray(tiles.transpose(0, 2, 1, 3))
    return ordered.reshape(tiled_shape(columns, width)), largest / np.float32(127)


def int8_matmul(
    x: TensorValue,
    weights: TensorValue,
    scales: TensorValue,
    addend: TensorValue | None = None,
) -> TensorValue:
    """Computes ``x @ (weights * scales).T + addend``, quantizing ``x`` per token.

    Args:
        x: float32 ``[tokens, width]``.
        weights: int8 tiles, as of :func:`quantize_int8`.
        scales: float32 ``[columns]``.
        addend: float32 ``[columns]`` or ``[tokens, columns]``: a bias or a residual.

    Returns:
        float32 ``[tokens, columns]``.  A token that contains NaN or infinity is NaN.
        Without VNNI, columns whose weights are too large to add four products in int16
        are rounded again, with a larger scale.
    """
    added = scales if addend is None else addend
    return ops.custom(
        "mllama_int8_matmul",
        x.device,
        [x, weights, scales, ops.reshape(added, [-1, added.shape[-1]])],
        [TensorType(DType.float32, [x.shape[0], scales.shape[0]], x.device)],
        {
            "simd_width": simd_width(),
            "has_vnni": has_vnni(),
            "has_addend": addend is not None,
        },
    )[0].tensor
