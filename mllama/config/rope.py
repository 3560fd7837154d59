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


def rotary_table(config: MllamaTextConfig, max_length: int) -> npt.NDArray[np.float32]:
    """Returns cosines and sines of all positions in the layout of MAX's attention.

    Args:
        config: The text decoder's configuration.
        max_length: Number of positions, in tokens.

    Returns:
        float32 ``[max_length, head_dim]``: cosine and sine alternate.
    """
    frequencies = 2 * np.pi / wavelengths(config.head_dim, config.rope_theta)
    if config.rope_scaling is not None:
        frequencies = frequencies / llama3_factors(
            config.rope_scaling, config.head_dim, config.rope_theta
        )
    positions = np.arange(max_length, dtype=np.float32)
    # float32, as in training.
    angles = np.outer(positions, frequencies.astype(np.float32))
    table = np.empty((max_length, config.head_dim), np.float32)
    np.cos(angles, out=table[:, 0::2])
    np.sin(angles, out=table[:, 1::2])
    return table
