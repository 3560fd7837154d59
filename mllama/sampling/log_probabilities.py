"""Log probabilities of tokens under the model, before any sampling setting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mllama.sampling.sampler import largest


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


def token_log_probability(
    logits: npt.NDArray[np.float32], token: int, top_n: int
) -> TokenLogProbability:
    """Returns the log probability of a token and of the likeliest tokens.

    Args:
        logits: The model's logits ``[vocabulary]``.
        token: The token.
        top_n: The number of likeliest tokens, up to all; of equally likely ones those
            with the lowest ids count.
    """
    maximum = float(logits.max())
    total = np.exp(logits - np.float32(maximum)).sum(dtype=np.float64)
    normalizer = maximum + float(np.log(total))
    top: dict[int, float] = {}
    if top_n > 0:
        ids = largest(logits, min(top_n, logits.size))
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        values = logits[ids].astype(np.float64) - normalizer
        top = dict(zip(ids.tolist(), values.tolist(), strict=True))
    own = top.setdefault(token, float(logits[token]) - normalizer)
    return TokenLogProbability(token, own, top)
