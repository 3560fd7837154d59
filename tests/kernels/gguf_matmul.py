"""Products with blocks in plain NumPy, which the operations are held against."""

from __future__ import annotations

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

Array = np.ndarray

SPAN = 256
"""Activations that share a scale."""


def quantized(x: Array) -> Array:
    """float32 ``[rows, width]`` as the operations see them, float64.

    Each 256 values become the nearest of -127 to 127 times a scale; values below 1e-30
    are zeros, and values of which one isn't finite are all NaN.
    """
    spans = x.reshape(len(x), x.shape[1] // SPAN, SPAN)
    top = np.abs(spans).max(axis=-1, keepdims=True)
    used = np.isfinite(top) & (top >= np.float32(1e-30))
    inverse = np.float32(127) / np.where(used, top, np.float32(1))
    finite = np.where(np.isfinite(spans), spans, np.float32(0))
    levels = np.where(used, np.rint(finite * inverse), 0)
    scale = (top / np.float32(127)).astype(np.float64)
    scale = np.where(np.isfinite(top), np.where(used, scale, 0), np.nan)
    return (levels * scale).reshape(x.shape)


def product(x: Array, blocks: Array, kind: Kind) -> Array:
    """``x @ weights.T`` in float64, ``x`` quantized."""
    values: Array = quantized(x) @ weights(blocks, kind).T
    return values


def gated(gate: Array, up: Array) -> Array:
    """``silu(gate) * up``."""
    values: Array = gate / (1 + np.exp(-gate)) * up
    return values


def weights(blocks: Array, kind: Kind) -> Array:
    """What blocks stand for, float64."""
    values: Array = dequantize(blocks, kind).astype(np.float64)
    return values


def random_blocks(rng: np.random.Generator, rows: int, width: int, kind: Kind) -> Array:
    """Blocks of any bytes, but for the float16 in them, which are moderate."""
    length, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, width // length, size), dtype=np.uint8)
    places = {Kind.Q4_0: [0], Kind.Q4_K: [0, 2], Kind.Q6_K: [208]}[kind]
    for place in places:
        halves = rng.uniform(-0.1, 0.1, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, place : place + 2] = halves[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)
