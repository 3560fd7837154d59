"""Log probabilities of tokens under the model, before any sampling setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mllama.sampling.sampler import largest

Logits = npt.NDArray[np.float32]

ALL: Final = -1
"""A number of likeliest tokens that stands for the whole vocabulary."""

_BLOCK_VALUES: Final = 1 << 19
"""Logits whose exponentials are computed at once: a block that fits the CPU's cache."""


@dataclass(frozen=True)
class TokenLogProbability:
    """The log probability of a token, and of those that were likelier.

    Attributes:
        token: The token.
        log_probability: Its log probability.
        top: Log probabilities of the likeliest tokens, the likeliest first, and of the
            token, which comes last if it isn't among them.
    """

    token: int
    log_probability: float
    top: dict[int, float]


def token_log_probabilities(
    logits: Logits, tokens: Sequence[int] | npt.NDArray[np.int64], top_n: int
) -> list[TokenLogProbability]:
    """Returns the log probabilities of tokens, and of the likeliest in their places.

    Args:
        logits: The model's logits ``[tokens, vocabulary]``.
        tokens: The tokens.
        top_n: The number of likeliest tokens, up to all, or :data:`ALL`; of equally
            likely ones those with the lowest ids count.
    """
    vocabulary = logits.shape[1]
    count = vocabulary if top_n == ALL else min(top_n, vocabulary)
    found = []
    for row, token, normalizer in zip(
        logits, map(int, tokens), _normalizers(logits).tolist(), strict=True
    ):
        top: dict[int, float] = {}
        if count > 0:
            ids = largest(row, count)
            ids = ids[np.argsort(-row[ids], kind="stable")]
            values = row[ids].astype(np.float64) - normalizer
            top = dict(zip(ids.tolist(), values.tolist(), strict=True))
        own = top.setdefault(token, float(row[token]) - normalizer)
        found.append(TokenLogProbability(token, own, top))
    return found


def token_log_probability(
    logits: Logits, token: int, top_n: int
) -> TokenLogProbability:
    """Returns the log probability of a token and of the likeliest tokens.

    Args:
        logits: The model's logits ``[vocabulary]``.
        token: The token.
        top_n: As for :func:`token_log_probabilities`.
    """
    return token_log_probabilities(logits[None], [token], top_n)[0]


def _normalizers(logits: Logits) -> npt.NDArray[np.float64]:
    """Returns the logarithms of the sums of exponentials of rows, ``[tokens]``."""
    rows = max(1, _BLOCK_VALUES // logits.shape[1])
    normalizers = np.empty(len(logits))
    for start in range(0, len(logits), rows):
        block = logits[start : start + rows]
        maxima = block.max(axis=1, keepdims=True)
        totals = np.exp(block - maxima).sum(axis=1, dtype=np.float64)
        normalizers[start : start + rows] = maxima[:, 0] + np.log(totals)
    return normalizers
