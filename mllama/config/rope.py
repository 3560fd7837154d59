"""Rotary position embedding: frequencies, and the table that the text graph reads.

Source: RoFormer (https://arxiv.org/abs/2104.09864); transformers'
``modeling_rope_utils.py`` for the scaling of Llama 3.1, rope type ``llama3``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mllama.config import Llama3RopeScaling, MllamaTextConfig


def wavelengths(head_dim: int, theta: float) -> npt.NDArray[np.float64]:
    """Returns the unscaled wavelengths in tokens, float64 ``[head_dim / 2]``."""
    return 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)


def llama3_factors(
    scaling: Llama3RopeScaling, head_dim: int, theta: float
) -> npt.NDArray[np.float64]:
    """Returns the factors by which the frequencies are divided.

    Args:
        scaling: The scaling's parameters.
        head_dim: Width of an attention head.
        theta: Base of the rotary embedding.

    Returns:
        float64 ``[head_dim / 2]``.
    """
    waves = wavelengths(head_dim, theta)
    original = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if low == high:
        share = np.where(original / waves > high, 1.0, 0.0)
    else:
        share = np.clip((original / waves - low) / (high - low), 0, 1)
    return 1 / ((1 - share) / scaling.factor + share)


def frequencies(config: MllamaTextConfig) -> npt.NDArray[np.float32]:
    """Returns the angle by which each pair of dimensions turns per position.

    Each step is rounded to float32, as in Meta's code and in transformers: the weights
    were trained with these frequencies, and at position 8,192 an angle from frequencies
    in float64 differs by 5e-4.

    Args:
        config: The text decoder's configuration.

    Returns:
        float32 ``[head_dim / 2]``, in radians.
    """
    exponents = np.arange(0, config.head_dim, 2).astype(np.float32)
    exponents /= np.float32(config.head_dim)
    # NumPy's power in float32 is off by up to 3 units in the last place, PyTorch's is
    # nearly always the correctly rounded one.
    powers = float(np.float32(config.rope_theta)) ** exponents.astype(np.float64)
    unscaled = np.float32(1) / powers.astype(np.float32)
    if config.rope_scaling is None:
        return unscaled
    return _scaled(unscaled, config.rope_scaling)


def _scaled(
    unscaled: npt.NDArray[np.float32], scaling: Llama3RopeScaling
) -> npt.NDArray[np.float32]:
    """Scales frequencies by Llama 3.1's rule, in float32."""
    original = scaling.original_max_position_embeddings
    low, high = (
        np.float32(scaling.low_freq_factor),
        np.float32(scaling.high_freq_factor),
    )
    factor = np.float32(scaling.factor)
    # PyTorch divides a number by a tensor in two roundings, through the reciprocal.
    one = np.float32(1)
    waves = one / unscaled * np.float32(2 * np.pi)
    is_long = waves > np.float32(original / scaling.low_freq_factor)
    is_short = waves < np.float32(original / scaling.high_freq_factor)
    scaled = np.where(is_long, unscaled / factor, unscaled)
    is_medium = ~(is_long | is_short)
    if low != high:
        share = (one / waves * np.float32(original) - low) / (high - low)
        smoothed = (one - share) * unscaled / factor + share * unscaled
        scaled = np.where(is_medium, smoothed, scaled)
    return scaled


def rotary_table(config: MllamaTextConfig, max_length: int) -> npt.NDArray[np.float32]:
    """Returns cosines and sines of all positions in the layout of MAX's attention.

    Args:
        config: The text decoder's configuration.
        max_length: Number of positions, in tokens.

    Returns:
        float32 ``[max_length, head_dim]``: cosine and sine alternate.
    """
    positions = np.arange(max_length, dtype=np.float32)
    angles = np.outer(positions, frequencies(config))
    table = np.empty((max_length, config.head_dim), np.float32)
    np.cos(angles, out=table[:, 0::2])
    np.sin(angles, out=table[:, 1::2])
    return table
