"""The int8 matmul in NumPy, which the custom op is compared with."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def quantize_rows(values: Array) -> Array:
    """Quantizes float32 ``[rows, width]``; returns the rounded values in float64.

    Each row becomes the nearest of -127 to 127 times its scale.  A row below 1e-30
    becomes zeros, and one that isn't finite NaN.
    """
    largest = np.abs(values).max(axis=1, keepdims=True)
    is_quantized = np.isfinite(largest) & (largest >= np.float32(1e-30))
    inverse = np.float32(127) / np.where(is_quantized, largest, np.float32(1))
    finite = np.where(np.isfinite(values), values, np.float32(0))
    levels = np.where(is_quantized, np.rint(finite * inverse), 0)
    scale = (largest / np.float32(127)).astype(np.float64)
    return levels * np.where(
        np.isfinite(largest), np.where(is_quantized, scale, 0), np.nan
    )


def int8_matmul(x: Array, weights: Array, addend: Array | None = None) -> Array:
    """Computes ``x @ weights.T + addend`` in float64, both factors quantized."""
    result: Array = quantize_rows(x) @ quantize_rows(weights).T
    return result if addend is None else result + addend
