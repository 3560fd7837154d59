"""The GGUF matmul in NumPy, which the custom ops are compared with."""

from __future__ import annotations

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

Array = np.ndarray

SUPER_BLOCK = 256
"""Activations that share a scale."""


def quantize_activations(x: Array) -> Array:
    """Quantizes float32 ``[tokens, width]``; returns the rounded values in float64.

    Each 256 values become the nearest of -127 to 127 times a scale.  Values below 1e-30
    become zeros; if one of the 256 isn't finite, all become NaN.
    """
    super_blocks = x.reshape(len(x), x.shape[1] // SUPER_BLOCK, SUPER_BLOCK)
    largest = np.abs(super_blocks).max(axis=-1, keepdims=True)
    is_quantized = np.isfinite(largest) & (largest >= np.float32(1e-30))
    inverse = np.float32(127) / np.where(is_quantized, largest, np.float32(1))
    finite = np.where(np.isfinite(super_blocks), super_blocks, np.float32(0))
    levels = np.where(is_quantized, np.rint(finite * inverse), 0)
    scale = (largest / np.float32(127)).astype(np.float64)
    scale = np.where(np.isfinite(largest), np.where(is_quantized, scale, 0), np.nan)
    return (levels * scale).reshape(x.shape)


def gguf_matmul(x: Array, blocks: Array, kind: Kind) -> Array:
    """Computes ``x @ weights.T`` in float64, with ``x`` quantized."""
    values: Array = quantize_activations(x) @ dequantize_weights(blocks, kind).T
    return values


def gate_up(gate: Array, up: Array) -> Array:
    """Computes ``silu(gate) * up``."""
    values: Array = gate / (1 + np.exp(-gate)) * up
    return values


def dequantize_weights(blocks: Array, kind: Kind) -> Array:
    """Dequantizes GGUF blocks to float64."""
    values: Array = dequantize(blocks, kind).astype(np.float64)
    return values


def random_blocks(rng: np.random.Generator, rows: int, width: int, kind: Kind) -> Array:
    """Returns GGUF blocks of random bytes, with float16 scales of moderate size."""
    length, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, width // length, size), dtype=np.uint8)
    offsets = {Kind.Q4_0: [0], Kind.Q4_K: [0, 2], Kind.Q6_K: [208]}[kind]
    for offset in offsets:
        halves = rng.uniform(-0.1, 0.1, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, offset : offset + 2] = halves[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)
