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


def bound_rows(values: Array) -> Array:
    """Rounds quantized rows again, so that products of four can be added in int16.

    A row is scaled down if the magnitudes of four of its levels add up to more than
    128: of two successive ones, and those four places later.
    """
    scale = np.abs(values).max(axis=1, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1)
    levels = np.rint(values / scale).astype(np.float32)
    pairs = np.abs(levels).reshape(len(levels), -1, 2, 2, 2).sum(axis=(2, 4))
    sums = pairs.max(axis=(1, 2)).astype(np.float32)[:, None]
    factors = np.where(sums > 128, np.float32(126) / sums, np.float32(1))
    bounded: Array = np.rint(levels * factors).astype(np.float64) / factors * scale
    return bounded


def int8_matmul(
    x: Array, weights: Array, addend: Array | None = None, *, is_bounded: bool = False
) -> Array:
    """Computes ``x @ weights.T + addend`` in float64, both factors quantized.

    Args:
        x: ``[tokens, width]``.
        weights: ``[columns, width]``.
        addend: ``[columns]`` or ``[tokens, columns]``.
        is_bounded: Whether weights are bounded as by :func:`bound_rows`.
    """
    levels = quantize_rows(weights)
    result: Array = quantize_rows(x) @ (bound_rows(levels) if is_bounded else levels).T
    return result if addend is None else result + addend
