"""Changes of a request's logits before sampling: penalties, bias and masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mllama.sampling.state import Bitmask, SamplingState

Logits = npt.NDArray[np.float32]

_MASK = np.array([0, -np.inf], np.float32)
"""What is added to a logit that isn't blocked, and to one that is."""


def processed_logits(logits: Logits, state: SamplingState) -> Logits:
    """Returns a request's logits with penalties, bias and masks applied, in that order.

    A mask that would leave no token isn't applied.  A grammar's mask comes first, so
    that an answer whose grammar allows nothing but its end does end, even if it is
    shorter than ``min_tokens``.

    Args:
        logits: The model's logits ``[vocabulary]``, which are not changed.
        state: The request.

    Returns:
        ``[vocabulary]``, -inf where a token is masked; ``logits`` itself if nothing
        changes.
    """
    settings = state.settings
    processed = logits
    if settings.has_penalties:
        processed = _penalized(logits, state)
    if settings.logit_bias:
        processed = processed.copy() if processed is logits else processed
        _add_bias(processed, state)
    allowed = state.allowed
    if allowed is not None:
        processed = _masked(processed, ~unpacked_bitmask(allowed, logits.size))
    if state.blocks_end:
        blocked = np.zeros(logits.size, bool)
        blocked[[token for token in settings.end_tokens if token < logits.size]] = True
        processed = _masked(processed, blocked)
    return processed


def unpacked_bitmask(bitmask: Bitmask, vocabulary: int) -> npt.NDArray[np.bool_]:
    """Returns which tokens a packed bitmask allows.

    Args:
        bitmask: ``[words]``; tokens beyond its bits are not allowed.
        vocabulary: The number of tokens.

    Returns:
        ``[vocabulary]``.
    """
    words = np.ascontiguousarray(bitmask).astype("<i4", copy=False)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    allowed = np.zeros(vocabulary, bool)
    allowed[: bits.size] = bits[:vocabulary]
    return allowed


def _penalized(logits: Logits, state: SamplingState) -> Logits:
    """Returns logits with penalties, the repetition penalty first as in vLLM and MAX.

    Images are tokens of the prompt without a logit.
    """
    settings, tokens = state.settings, state.tokens
    assert tokens is not None
    penalized = logits.copy()
    if settings.repetition_penalty != 1:
        seen = np.zeros(logits.size, bool)
        seen[tokens[tokens < logits.size]] = True
        ids = np.flatnonzero(seen)
        repeated = penalized[ids]
        penalty = np.float32(settings.repetition_penalty)
        penalized[ids] = np.where(repeated > 0, repeated / penalty, repeated * penalty)
    if settings.frequency_penalty or settings.presence_penalty:
        answer = tokens[state.prompt_length :]
        ids, counts = np.unique(answer[answer < logits.size], return_counts=True)
        penalized[ids] -= (
            settings.frequency_penalty * counts + settings.presence_penalty
        ).astype(np.float32)
    return penalized


def _add_bias(logits: Logits, state: SamplingState) -> None:
    for token, bias in state.settings.logit_bias.items():
        if token < logits.size:
            logits[token] += np.float32(bias)


def _masked(logits: Logits, blocked: npt.NDArray[np.bool_]) -> Logits:
    """Returns logits with -inf for blocked tokens, unless no token would remain."""
    # A sum takes a third of the time of an assignment where masks alternate.
    with np.errstate(invalid="ignore"):
        masked = logits + _MASK[blocked.view(np.int8)]
    return logits if masked.max() == -np.inf else masked
