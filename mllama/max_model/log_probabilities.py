"""Log probabilities of the tokens of prompts and answers, in MAX's form.

A step returns a row of logits for each token of a prompt whose log probabilities are
asked for.  They become log probabilities after each step, so that a step's logits are
never kept, and go to the request with the first token of its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from max.pipelines.context import LogProbabilities

from mllama.max_model.sampling_context import (
    log_probability_counts,
    pending_prompt_count,
)
from mllama.sampling.log_probabilities import (
    TokenLogProbability,
    token_log_probabilities,
    token_log_probability,
)

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]

_STEP_BYTES: Final = 128 << 20
"""Memory that the logits of prompts' tokens may take in a step."""


def prompt_logits_per_step(vocabulary: int) -> int:
    """Returns the number of prompts' tokens whose logits one step returns, at most."""
    return max(1, _STEP_BYTES // (4 * vocabulary))


@dataclass(frozen=True)
class PromptLogits:
    """Tokens of one request in a step whose logits give log probabilities.

    Attributes:
        request_id: The request.
        indices: Their positions in the step ``[tokens]``.
        following: The token after each of them ``[tokens]``.
        positions: The positions of those in the prompt ``[tokens]``.
        top_n: The number of likeliest tokens to report in each place.
    """

    request_id: Any
    indices: Tokens
    following: Tokens
    positions: Tokens
    top_n: int


def prompt_logits(
    batch: Sequence[Any], offsets: npt.NDArray[np.integer], vocabulary: int
) -> list[PromptLogits]:
    """Returns the tokens of a step whose logits give prompts' log probabilities.

    Args:
        batch: The requests.
        offsets: Where each request begins in the step, and the end.
        vocabulary: The number of tokens that have logits, unlike image placeholders.
    """
    found = []
    for context, offset in zip(batch, offsets[:-1].tolist(), strict=True):
        top_n = pending_prompt_count(context)
        if top_n is None:
            continue
        start = context.tokens.processed_length
        end = start + context.tokens.active_length
        # The prompt's last token has none after it.
        following = context.tokens.prompt[start + 1 : end + 1]
        steps = np.flatnonzero(following < vocabulary)
        if steps.size:
            found.append(
                PromptLogits(
                    context.request_id,
                    offset + steps,
                    following[steps],
                    start + 1 + steps,
                    top_n,
                )
            )
    return found


def logit_indices(
    offsets: npt.NDArray[np.integer],
    prompts: Sequence[PromptLogits],
    guesses: Sequence[int] = (),
) -> Tokens:
    """Returns the positions in a step of the tokens whose logits are wanted.

    Args:
        offsets: Where each request begins in the step, and the end.
        prompts: Tokens of prompts.
        guesses: How many of each request's tokens are guesses; none if it is empty.

    Returns:
        ``[logits]``, of each request the last token that is no guess and its guesses,
        then the tokens of prompts.
    """
    indices = offsets[1:].astype(np.int64) - 1
    if any(guesses):
        answers = zip(indices.tolist(), guesses, strict=True)
        indices = np.concatenate([np.arange(i - n, i + 1) for i, n in answers])
    return np.concatenate([indices, *(p.indices for p in prompts)])


class PromptLogProbabilities:
    """The log probabilities of prompts that are being prefilled.

    Args:
        vocabulary: The number of tokens that have logits.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._found: dict[Any, dict[int, TokenLogProbability]] = {}

    def record(self, prompts: Sequence[PromptLogits], logits: Logits) -> None:
        """Computes the log probabilities of a step's tokens of prompts.

        Args:
            prompts: The tokens.
            logits: Their logits ``[tokens, vocabulary]``, in this order.
        """
        row = 0
        for each in prompts:
            rows = logits[row : row + each.following.size]
            row += each.following.size
            found = token_log_probabilities(rows, each.following, each.top_n)
            self._found.setdefault(each.request_id, {}).update(
                zip(each.positions.tolist(), found, strict=True)
            )

    def of(self, context: Any) -> list[TokenLogProbability]:
        """Returns those of a prompt's tokens, except the first and image placeholders.

        Raises:
            RuntimeError: If a token has none, because it was not computed.
        """
        found = self._found.get(context.request_id, {})
        positions = np.flatnonzero(context.tokens.prompt[1:] < self._vocabulary) + 1
        if len(found) != positions.size:
            raise RuntimeError(
                f"{len(found)} of {positions.size} log probabilities of a prompt"
            )
        return [found[position] for position in positions.tolist()]

    def release(self, request_id: Any) -> None:
        """Forgets a request; it may be called twice."""
        self._found.pop(request_id, None)


def step_log_probabilities(
    batch: Sequence[Any],
    logits: Logits,
    next_tokens: npt.NDArray[np.integer],
    prompts: PromptLogProbabilities,
) -> list[LogProbabilities | None]:
    """Returns the log probabilities that each request of a step gets.

    With the first token of an answer come those of the prompt's tokens, as MAX does for
    ``echo``, except for its first token and image placeholders.

    Args:
        batch: The requests, before they get their tokens; once for each token.
        logits: The logits that the tokens were chosen from ``[tokens, vocabulary]``.
        next_tokens: The chosen tokens ``[tokens]``.
        prompts: Those of the prompts.

    Returns:
        None for a request that gets none, as before the last chunk of a prompt.
    """
    results: list[LogProbabilities | None] = []
    for context, row, token in zip(batch, logits, next_tokens.tolist(), strict=True):
        found: list[TokenLogProbability] = []
        if not context.tokens.actively_chunked:
            if pending_prompt_count(context) is not None:
                found += prompts.of(context)
            answer = log_probability_counts(context).answer
            if answer is not None:
                found.append(token_log_probability(row, token, answer))
        results.append(_in_max_form(found) if found else None)
    return results


def _in_max_form(found: Sequence[TokenLogProbability]) -> LogProbabilities:
    return LogProbabilities(
        token_log_probabilities=[each.log_probability for each in found],
        top_log_probabilities=[each.top for each in found],
        sampled_token_ids=[each.token for each in found],
    )
