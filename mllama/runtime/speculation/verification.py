"""Checks guesses: the tokens that a sampler chooses, as far as the guesses were right.

The sampler chooses the token after each guess as it would if the guess were part of the
answer.  A guess is right if it is the token that was chosen in its place.  The random
numbers depend on the seed and on a token's position alone, so that the tokens are those
that decoding one by one would choose.  For guesses that are no random choice, this is
rejection sampling: a guess is accepted with its own probability, and the token that
takes the place of a wrong one is distributed as the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from max.pipelines.context import LogProbabilities, TextGenerationOutput

from mllama.requests.answer_matcher import (
    GrammarError,
)
from mllama.runtime.host_sampler import sampling_states
from mllama.runtime.speculation.proposer import Guesses
from mllama.sampling.sampler import choose_token

Logits = npt.NDArray[np.float32]


def verified_tokens(
    logits: Logits, contexts: Sequence[Any], guesses: Sequence[Guesses]
) -> list[list[int]]:
    """Returns the next tokens of each request.

    Args:
        logits: ``[tokens, vocabulary]``: of each request the logits after its last
            token, then those after each of its guesses.
        contexts: The requests, without the guesses.
        guesses: The guesses of each request.

    Returns:
        Of each request the guesses that were right, then the token that follows them
        unless its grammar raises there; nothing if its prompt goes on.

    Raises:
        GrammarError: If a grammar raises at the first token of a request.
    """
    chosen = []
    row = 0
    for context, state, guessed in zip(
        contexts, sampling_states(contexts), guesses, strict=True
    ):
        tokens: list[int] = []
        if not context.tokens.actively_chunked:
            ends = context.eos_tracker.eos_token_ids
            for step in range(guessed.size + 1):
                try:
                    token = choose_token(logits[row + step], state)
                except GrammarError:
                    if not tokens:
                        raise
                    break  # The next step raises it, after these tokens.
                tokens.append(token)
                is_right = step < guessed.size and token == guessed[step]
                # A grammar allows nothing after an end.
                if not is_right or token in ends:
                    break
                state = state.after(token)
        chosen.append(tokens)
        row += guessed.size + 1
    return chosen


def verified_log_probabilities(
    model: Any,
    logits: Logits,
    contexts: Sequence[Any],
    tokens: Sequence[Sequence[int]],
    guesses: Sequence[Guesses],
) -> list[list[LogProbabilities | None]]:
    """Returns the log probabilities that each request gets with its tokens.

    Args:
        model: The :class:`~mllama.max_model.model.MllamaModel`.
        logits: As for :func:`verified_tokens`.
        contexts: As for it.
        tokens: Its result.
        guesses: As for it.
    """
    starts = np.cumsum([0, *(guessed.size + 1 for guessed in guesses)])[:-1]
    rows = [
        start + step
        for start, chosen in zip(starts.tolist(), tokens, strict=True)
        for step in range(len(chosen))
    ]
    owners = [
        context
        for context, chosen in zip(contexts, tokens, strict=True)
        for _ in chosen
    ]
    flat = np.array([token for chosen in tokens for token in chosen], np.int64)
    found = iter(model.log_probabilities(owners, logits[rows], flat))
    return [[next(found) for _ in chosen] for chosen in tokens]


def record_tokens(
    contexts: Sequence[Any],
    tokens: Sequence[Sequence[int]],
    log_probabilities: Sequence[Sequence[LogProbabilities | None]] | None,
) -> dict[Any, TextGenerationOutput]:
    """Gives requests their new tokens, up to one that ends its request.

    Args:
        contexts: The requests.
        tokens: The tokens of each; none moves a prompt on to its next chunk.
        log_probabilities: Those of each token; None if no request gets any.

    Returns:
        MAX's outputs by request, of those that got a token.
    """
    outputs = {}
    for index, (context, chosen) in enumerate(zip(contexts, tokens, strict=True)):
        if not chosen:
            context.tokens.advance_chunk()
            continue
        found = log_probabilities[index] if log_probabilities else [None] * len(chosen)
        for token, log_probability in zip(chosen, found, strict=True):
            context.advance_token_buffer(token, log_probability)
            context.advance_fsm(token)
            if context.is_done:
                break
        outputs[context.request_id] = context.to_generation_output()
    return outputs
