"""Which guesses a request's vocabulary and grammar allow, and which they force."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mllama.max_model.sampling_context import prompt_length_of
from mllama.requests.answer_matcher import AnswerMatcher
from mllama.runtime.speculation.proposer import Guesses

NO_GUESSES: Final = np.empty(0, np.int64)


def is_answering(context: Any) -> bool:
    """Returns True if a request's next step continues its answer."""
    tokens = context.tokens
    return bool(tokens.generated_length) and not tokens.actively_chunked


def allowed_guesses(context: Any, guesses: Guesses, vocab_size: int) -> Guesses:
    """Returns a request's guesses up to the first that can't be chosen."""
    beyond = np.flatnonzero(guesses >= vocab_size)
    if beyond.size:
        guesses = guesses[: beyond[0]]
    matcher = context.matcher
    if guesses.size and isinstance(matcher, AnswerMatcher):
        answer = context.tokens.all[prompt_length_of(context) :]
        guesses = guesses[: matcher.allowed_count(answer, guesses)]
    return guesses


def may_force_guesses(context: Any) -> bool:
    """Returns True if :func:`forced_guesses` may have some.

    What a grammar forces is part of the answer already, unless each token needs logits.
    """
    return bool(context.log_probabilities) and isinstance(
        context.matcher, AnswerMatcher
    )


def forced_guesses(context: Any, most: int) -> Guesses:
    """Returns the tokens that a request's grammar leaves no choice about.

    Args:
        context: The request, of which :func:`may_force_guesses` is true.
        most: The most tokens to return.
    """
    matcher = context.matcher
    answer = context.tokens.all[prompt_length_of(context) :]
    forced: list[int] = []
    for _ in range(most):
        token = matcher.forced_token(np.append(answer, forced).astype(np.int64))
        if token is None or token in context.eos_tracker.eos_token_ids:
            break
        forced.append(token)
    return np.array(forced, np.int64)
