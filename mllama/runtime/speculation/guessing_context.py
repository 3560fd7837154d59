"""A request that takes guesses for its tokens, for the inputs of one step."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
from max.pipelines.context import TokenBuffer

from mllama.max_model.sampling_context import GUESSES
from mllama.runtime.speculation.proposer import Guesses


def guessing_context(context: Any, guesses: Guesses) -> Any:
    """Returns a copy of a request whose active tokens are followed by guesses.

    The request itself never has a token that isn't its own, so that MAX's scheduler,
    the prefix cache and whoever streams the answer don't see guesses.

    Args:
        context: The request.
        guesses: The guesses; without any, the request itself is returned.
    """
    if not guesses.size:
        return context
    guessing = copy(context)
    tokens = TokenBuffer(np.concatenate([context.tokens.all, guesses]))
    if context.tokens.processed_length:
        tokens.skip_processing(context.tokens.processed_length)
    guessing.tokens = tokens
    guessing.extra_model_args = {
        **context.extra_model_args,
        GUESSES: np.array([guesses.size]),
    }
    return guessing
