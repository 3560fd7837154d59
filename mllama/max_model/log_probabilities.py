"""Log probabilities of a step's tokens on the host, in MAX's form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from max.pipelines.context import LogProbabilities

from mllama.sampling.log_probabilities import token_log_probability

Integers = npt.NDArray[np.integer]


def host_log_probabilities(
    logits: npt.NDArray[np.float32],
    logit_offsets: Integers,
    *,
    tokens: Integers,
    token_offsets: Integers,
    next_tokens: Integers,
    top_n: Sequence[int],
    echo: Sequence[bool],
) -> list[LogProbabilities | None]:
    """Returns the log probabilities that each request of a step asks for.

    Args:
        logits: The model's logits ``[rows, vocabulary]``.
        logit_offsets: ``[requests + 1]``, the first row of each request and the end of
            the last; a request has one row, or one for each of its tokens.
        tokens: The tokens that the step has computed.
        token_offsets: ``[requests + 1]``, as ``logit_offsets`` for ``tokens``.
        next_tokens: The chosen tokens ``[requests]``.
        top_n: The number of likeliest tokens to return for each request; 0 asks for no
            log probabilities.
        echo: Whether each request asks for its prompt's too, which takes a row of
            logits for each token.

    Returns:
        None for a request that asks for none.
    """
    results: list[LogProbabilities | None] = []
    for request, count in enumerate(top_n):
        if not count:
            results.append(None)
            continue
        chosen = [int(next_tokens[request])]
        if echo[request]:
            first, end = token_offsets[request : request + 2]
            chosen = [*tokens[first + 1 : end].tolist(), *chosen]
        last = int(logit_offsets[request + 1])
        rows = logits[last - len(chosen) : last]
        found = [
            token_log_probability(row, token, count)
            for row, token in zip(rows, chosen, strict=True)
        ]
        results.append(
            LogProbabilities(
                token_log_probabilities=[each.log_probability for each in found],
                top_log_probabilities=[each.top for each in found],
                sampled_token_ids=chosen,
            )
        )
    return results
