"""The block formats in plain NumPy, which the kernels are held against.

Layouts and search strategies are those of ggml (``ggml-quants.c``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

Floats = npt.NDArray[Any]
"""float32 throughout."""

Bytes = npt.NDArray[np.uint8]

SMALLEST = 1e-15
"""q6_k takes sub-blocks without a larger weight for zeros, as ggml does."""


def quantize(weights: Floats, encoding: GGMLQuantizationType) -> Bytes:
    """Blocks of a matrix ``[rows, width]``: uint8 ``[rows, bytes of a row]``."""
    length, size = GGML_QUANT_SIZES[encoding]
    rows, width = weights.shape
    blocks = QUANTISERS[encoding](weights.astype(np.float32).reshape(-1, length))
    return blocks.reshape(rows, width // length * size)


def _rounded(values: Floats) -> Floats:
    """Rounds to even, as ggml's ``nearest_int`` does."""
    return np.rint(values)


def _divided(numerator: Floats | float, denominator: Floats) -> Floats:
    """Quotient, zero where the denominator is."""
    safe = np.where(denominator == 0, 1, denominator)
    return np.where(denominator == 0, 0, numerator / safe).astype(np.float32)


def _half(values: Floats) -> tuple[Floats, Bytes]:
    """What float16 keeps of the values, and its bytes."""
    halves = values.astype(np.float16)
    return halves.astype(np.float32), halves[:, None].view(np.uint8)


def _q4_0(blocks: Floats) -> Bytes:
    """Blocks of 32: a float16 scale, then 4 bits a weight, the halves interleaved."""
    index = np.abs(blocks).argmax(axis=1)
    extreme = np.take_along_axis(blocks, index[:, None], axis=1)[:, 0]
    scale = extreme / -8
    kept, scale_bytes = _half(scale)
    scaled = blocks * np.where(kept == 0, 0, _divided(1.0, scale))[:, None]
    levels = np.clip(np.trunc(scaled + 8.5), 0, 15).astype(np.uint8)
    packed = levels[:, :16] | (levels[:, 16:] << 4)
    return np.concatenate([scale_bytes, packed], axis=1)


def _scale_and_min(blocks: Floats) -> tuple[Floats, Floats]:
    """Scale and minimum of sub-blocks of 32 that fit 4-bit levels best.

    ggml's search: from the range of values, 21 scales around it are tried, and for each
    the least squares solution, weighted by the size of the values.  The range begins
    at the best minimum so far.

    Args:
        blocks: ``[sub-blocks, 32]``.

    Returns:
        Scales and minima, the latter as positive numbers, ``[sub-blocks]`` each.
    """
    count = blocks.shape[1]
    spread = np.sqrt((blocks**2).sum(axis=1, keepdims=True) / count)
    weights = spread + np.abs(blocks)
    weight_sum = weights.sum(axis=1)
    value_sum = (weights * blocks).sum(axis=1)
    low = np.minimum(blocks.min(axis=1), 0)
    high = blocks.max(axis=1)
    scale = ((high - low) / 15).astype(np.float32)

    def error(scales: Floats, lows: Floats, levels: Floats) -> Floats:
        off = scales[:, None] * levels + lows[:, None] - blocks
        return np.einsum("ij,ij,ij->i", weights, off, off)

    levels = np.clip(
        _rounded((blocks - low[:, None]) * _divided(15, high - low)[:, None]), 0, 15
    )
    best = error(scale, low, levels)
    for step in range(21):
        inverse = _divided(-1 + 0.1 * step + 15, high - low)
        levels = np.clip(_rounded((blocks - low[:, None]) * inverse[:, None]), 0, 15)
        weighted = weights * levels
        level_sum = weighted.sum(axis=1)
        square_sum = (weighted * levels).sum(axis=1)
        product_sum = (weighted * blocks).sum(axis=1)
        determinant = weight_sum * square_sum - level_sum * level_sum
        new_scale = _divided(
            weight_sum * product_sum - value_sum * level_sum, determinant
        )
        new_low = _divided(
            square_sum * value_sum - level_sum * product_sum, determinant
        )
        # A minimum above zero can't be stored: the scale alone is fitted then.
        positive = new_low > 0
        new_scale = np.where(positive, _divided(product_sum, square_sum), new_scale)
        new_low = np.where(positive, 0, new_low).astype(np.float32)
        new_error = error(new_scale, new_low, levels)
        better = (determinant > 0) & (new_error < best)
        scale = np.where(better, new_scale, scale)
        low = np.where(better, new_low, low)
        best = np.where(better, new_error, best)
    return scale, -low


def _q4_k(blocks: Floats) -> Bytes:
    """Blocks of 256 in eight of 32: two float16, 6-bit scales and minima, levels."""
    sub_blocks = blocks.reshape(-1, 32)
    scales, lows = (values.reshape(-1, 8) for values in _scale_and_min(sub_blocks))
    top_scale, top_low = scales.max(axis=1), lows.max(axis=1)
    scale_levels = np.minimum(_rounded(scales * _divided(63, top_scale)[:, None]), 63)
    low_levels = np.minimum(_rounded(lows * _divided(63, top_low)[:, None]), 63)
    scale_unit, scale_bytes = _half(top_scale / 63)
    low_unit, low_bytes = _half(top_low / 63)
    scale = scale_unit[:, None] * scale_levels
    low = low_unit[:, None] * low_levels
    values = blocks.reshape(-1, 8, 32) + low[..., None]
    levels = np.clip(_rounded(values * _divided(1.0, scale)[..., None]), 0, 15).astype(
        np.uint8
    )
    packed_scales = _packed_6_bits(
        scale_levels.astype(np.uint8), low_levels.astype(np.uint8)
    )
    pairs = levels.reshape(-1, 4, 2, 32)
    packed = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)
    return np.concatenate([scale_bytes, low_bytes, packed_scales, packed], axis=1)


def _packed_6_bits(scales: Bytes, lows: Bytes) -> Bytes:
    """Eight scales and eight minima of 6 bits in 12 bytes.

    The first four of each fill the low bits of a byte; the last four lend their high
    two bits to these bytes.
    """
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = lows[:, :4] | ((lows[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((lows[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)


def _scale(blocks: Floats) -> Floats:
    """Scale of sub-blocks of 16 that fits the levels -32 to 31 best.

    ggml's search: 19 scales around the one that fits the extreme value, and for each
    the least squares solution, weighted by the squares of the values.
    """
    index = np.abs(blocks).argmax(axis=1)
    extreme = np.take_along_axis(blocks, index[:, None], axis=1)[:, 0]
    weights = blocks * blocks
    scale = np.zeros(len(blocks), np.float32)
    best = np.full(len(blocks), -1.0, np.float32)
    for step in (0, *range(-9, 0), *range(1, 10)):
        inverse = _divided(-(32 + 0.1 * step), extreme)
        levels = np.clip(_rounded(blocks * inverse[:, None]), -32, 31)
        product_sum = (weights * blocks * levels).sum(axis=1)
        square_sum = (weights * levels * levels).sum(axis=1)
        quotient = _divided(product_sum, square_sum)
        gain = quotient * product_sum
        better = (square_sum > 0) & (gain > best)
        scale = np.where(better, quotient, scale)
        best = np.where(better, gain, best)
    return np.where(np.abs(extreme) < SMALLEST, 0, scale)


def _q6_k(blocks: Floats) -> Bytes:
    """Blocks of 256 in sixteen of 16: low and high bits, 8-bit scales, one float16."""
    scales = _scale(blocks.reshape(-1, 16)).reshape(-1, 16)
    index = np.abs(scales).argmax(axis=1)
    extreme = np.take_along_axis(scales, index[:, None], axis=1)[:, 0]
    inverse = np.where(np.abs(extreme) < SMALLEST, 0, _divided(-128, extreme))
    unit, unit_bytes = _half(_divided(1.0, inverse))
    scale_levels = np.minimum(_rounded(scales * inverse[:, None]), 127)
    scale = unit[:, None] * scale_levels
    levels = _rounded(blocks.reshape(-1, 16, 16) * _divided(1.0, scale)[..., None])
    shifted = (np.clip(levels, -32, 31) + 32).astype(np.uint8)
    shifted[scale == 0] = 0  # Any level would do; ggml writes zeros.
    halves = shifted.reshape(-1, 2, 4, 32)  # two halves of four rows of 32
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
    return np.concatenate([low_bytes, high_bytes, scale_bytes, unit_bytes], axis=1)


QUANTISERS: dict[GGMLQuantizationType, Callable[[Floats], Bytes]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_K: _q4_k,
    GGMLQuantizationType.Q6_K: _q6_k,
}
