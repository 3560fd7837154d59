"""GGUF quantization in NumPy, which the custom ops are compared with.

Layouts and searches are ggml's (``ggml-quants.c``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

Floats = npt.NDArray[Any]
"""Always float32."""

Bytes = npt.NDArray[np.uint8]

SMALLEST = 1e-15
"""Sub-blocks of q6_k without a larger weight become zeros, as in ggml."""


def quantize(weights: Floats, encoding: GGMLQuantizationType) -> Bytes:
    """Quantizes a matrix ``[rows, width]`` to uint8 ``[rows, bytes of a row]``."""
    length, size = GGML_QUANT_SIZES[encoding]
    rows, width = weights.shape
    blocks = QUANTIZERS[encoding](weights.astype(np.float32).reshape(-1, length))
    return blocks.reshape(rows, width // length * size)


def _rounded(values: Floats) -> Floats:
    """Rounds to even, as ggml's ``nearest_int`` does."""
    return np.rint(values)


def _safe_divide(numerator: Floats | float, denominator: Floats) -> Floats:
    """Returns the quotient, or zero where the denominator is zero."""
    safe = np.where(denominator == 0, 1, denominator)
    return np.where(denominator == 0, 0, numerator / safe).astype(np.float32)


def _to_float16(values: Floats) -> tuple[Floats, Bytes]:
    """Rounds values to float16; returns them as float32, and their bytes."""
    halves = values.astype(np.float16)
    return halves.astype(np.float32), halves[:, None].view(np.uint8)


def _q4_0(blocks: Floats) -> Bytes:
    """Quantizes blocks of 32: a float16 scale, and 4-bit levels with halves mixed."""
    index = np.abs(blocks).argmax(axis=1)
    extreme = np.take_along_axis(blocks, index[:, None], axis=1)[:, 0]
    scale = extreme / -8
    rounded_scale, scale_bytes = _to_float16(scale)
    scaled = blocks * np.where(rounded_scale == 0, 0, _safe_divide(1.0, scale))[:, None]
    levels = np.clip(np.trunc(scaled + 8.5), 0, 15).astype(np.uint8)
    packed = levels[:, :16] | (levels[:, 16:] << 4)
    return np.concatenate([scale_bytes, packed], axis=1)


def _scale_and_min(blocks: Floats) -> tuple[Floats, Floats]:
    """Returns the scale and minimum of sub-blocks of 32 that fit 4-bit levels best.

    ggml's search tries 21 scales around that of the range of values, and for each the
    least-squares solution, weighted by the size of the values.  The range begins at the
    best minimum so far.

    Args:
        blocks: ``[sub-blocks, 32]``.

    Returns:
        Scales and minima, the latter as positive numbers, ``[sub-blocks]`` each.
    """
    count = blocks.shape[1]
    root_mean_square = np.sqrt((blocks**2).sum(axis=1, keepdims=True) / count)
    weights = root_mean_square + np.abs(blocks)
    weight_sum = weights.sum(axis=1)
    value_sum = (weights * blocks).sum(axis=1)
    minimum = np.minimum(blocks.min(axis=1), 0)
    maximum = blocks.max(axis=1)
    scale = ((maximum - minimum) / 15).astype(np.float32)

    def error(scales: Floats, minima: Floats, levels: Floats) -> Floats:
        difference = scales[:, None] * levels + minima[:, None] - blocks
        return np.einsum("ij,ij,ij->i", weights, difference, difference)

    levels = np.clip(
        _rounded(
            (blocks - minimum[:, None]) * _safe_divide(15, maximum - minimum)[:, None]
        ),
        0,
        15,
    )
    best = error(scale, minimum, levels)
    for step in range(21):
        inverse = _safe_divide(-1 + 0.1 * step + 15, maximum - minimum)
        levels = np.clip(
            _rounded((blocks - minimum[:, None]) * inverse[:, None]), 0, 15
        )
        weighted = weights * levels
        level_sum = weighted.sum(axis=1)
        square_sum = (weighted * levels).sum(axis=1)
        product_sum = (weighted * blocks).sum(axis=1)
        determinant = weight_sum * square_sum - level_sum * level_sum
        new_scale = _safe_divide(
            weight_sum * product_sum - value_sum * level_sum, determinant
        )
        new_minimum = _safe_divide(
            square_sum * value_sum - level_sum * product_sum, determinant
        )
        # A minimum above zero can't be stored: only the scale is fitted then.
        positive = new_minimum > 0
        new_scale = np.where(positive, _safe_divide(product_sum, square_sum), new_scale)
        new_minimum = np.where(positive, 0, new_minimum).astype(np.float32)
        new_error = error(new_scale, new_minimum, levels)
        better = (determinant > 0) & (new_error < best)
        scale = np.where(better, new_scale, scale)
        minimum = np.where(better, new_minimum, minimum)
        best = np.where(better, new_error, best)
    return scale, -minimum


def _q4_k(blocks: Floats) -> Bytes:
    """Quantizes 8 x 32 weights: two float16, 6-bit scales and minima, levels."""
    sub_blocks = blocks.reshape(-1, 32)
    scales, minima = (values.reshape(-1, 8) for values in _scale_and_min(sub_blocks))
    largest_scale, largest_minimum = scales.max(axis=1), minima.max(axis=1)
    scale_levels = np.minimum(
        _rounded(scales * _safe_divide(63, largest_scale)[:, None]), 63
    )
    minimum_levels = np.minimum(
        _rounded(minima * _safe_divide(63, largest_minimum)[:, None]), 63
    )
    super_scale, scale_bytes = _to_float16(largest_scale / 63)
    super_minimum, minimum_bytes = _to_float16(largest_minimum / 63)
    scale = super_scale[:, None] * scale_levels
    minimum = super_minimum[:, None] * minimum_levels
    values = blocks.reshape(-1, 8, 32) + minimum[..., None]
    levels = np.clip(
        _rounded(values * _safe_divide(1.0, scale)[..., None]), 0, 15
    ).astype(np.uint8)
    packed_scales = _pack_6_bits(
        scale_levels.astype(np.uint8), minimum_levels.astype(np.uint8)
    )
    pairs = levels.reshape(-1, 4, 2, 32)
    packed = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)
    return np.concatenate([scale_bytes, minimum_bytes, packed_scales, packed], axis=1)


def _pack_6_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Packs eight scales and eight minima of 6 bits in 12 bytes.

    The first four of each fill the low bits of a byte; the high two bits of these bytes
    belong to the last four.
    """
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minima[:, :4] | ((minima[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)


def _scale(blocks: Floats) -> Floats:
    """Returns the scale of sub-blocks of 16 that fits the levels -32 to 31 best.

    ggml's search tries 19 scales around the one that fits the extreme value, and for
    each the least-squares solution, weighted by the squares of the values.
    """
    index = np.abs(blocks).argmax(axis=1)
    extreme = np.take_along_axis(blocks, index[:, None], axis=1)[:, 0]
    weights = blocks * blocks
    scale = np.zeros(len(blocks), np.float32)
    best = np.full(len(blocks), -1.0, np.float32)
    for step in (0, *range(-9, 0), *range(1, 10)):
        inverse = _safe_divide(-(32 + 0.1 * step), extreme)
        levels = np.clip(_rounded(blocks * inverse[:, None]), -32, 31)
        product_sum = (weights * blocks * levels).sum(axis=1)
        square_sum = (weights * levels * levels).sum(axis=1)
        quotient = _safe_divide(product_sum, square_sum)
        gain = quotient * product_sum
        better = (square_sum > 0) & (gain > best)
        scale = np.where(better, quotient, scale)
        best = np.where(better, gain, best)
    return np.where(np.abs(extreme) < SMALLEST, 0, scale)


def _q6_k(blocks: Floats) -> Bytes:
    """Quantizes 16 x 16 weights: low and high bits, 8-bit scales, a float16."""
    scales = _scale(blocks.reshape(-1, 16)).reshape(-1, 16)
    index = np.abs(scales).argmax(axis=1)
    extreme = np.take_along_axis(scales, index[:, None], axis=1)[:, 0]
    inverse = np.where(np.abs(extreme) < SMALLEST, 0, _safe_divide(-128, extreme))
    super_scale, super_scale_bytes = _to_float16(_safe_divide(1.0, inverse))
    scale_levels = np.minimum(_rounded(scales * inverse[:, None]), 127)
    scale = super_scale[:, None] * scale_levels
    levels = _rounded(blocks.reshape(-1, 16, 16) * _safe_divide(1.0, scale)[..., None])
    shifted = (np.clip(levels, -32, 31) + 32).astype(np.uint8)
    shifted[scale == 0] = 0  # Any level decodes to zero; ggml writes 0.
    halves = shifted.reshape(-1, 2, 4, 32)  # two halves of four times 32
    low, high = halves & 15, halves >> 4
    low_bytes = np.concatenate(
        [low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], axis=2
    ).reshape(-1, 128)
    high_bytes = (
        high[:, :, 0]
        | (high[:, :, 1] << 2)
        | (high[:, :, 2] << 4)
        | (high[:, :, 3] << 6)
    ).reshape(-1, 64)
    scale_bytes = scale_levels.astype(np.int8).view(np.uint8)
    return np.concatenate(
        [low_bytes, high_bytes, scale_bytes, super_scale_bytes], axis=1
    )


QUANTIZERS: dict[GGMLQuantizationType, Callable[[Floats], Bytes]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_K: _q4_k,
    GGMLQuantizationType.Q6_K: _q6_k,
}
