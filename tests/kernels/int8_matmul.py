"""Products with bytes in plain NumPy, which the operation is held against."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def quantized(values: Array) -> Array:
    """float32 ``[rows, width]`` as bytes with a scale for each row, float64.

    Each row becomes the nearest of -127 to 127 times its scale; one below 1e-30 is
    zeros, one that isn't finite all NaN.
    """
    top = np.abs(values).max(axis=1, keepdims=True)
    used = np.isfinite(top) & (top >= np.float32(1e-30))
    inverse = np.float32(127) / np.where(used, top, np.float32(1))
    finite = np.where(np.isfinite(values), values, np.float32(0))
    levels = np.where(used, np.rint(finite * inverse), 0)
    scale = (top / np.float32(127)).astype(np.float64)
    return levels * np.where(np.isfinite(top), np.where(used, scale, 0), np.nan)


def product(x: Array, weights: Array, added: Array | None = None) -> Array:
    """``x @ weights.T + added`` in float64, both factors quantized."""
    result: Array = quantized(x) @ quantized(weights).T
    return result if added is None else result + added
