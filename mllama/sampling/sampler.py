"""Chooses the next token of each request from its logits.

The order is that of transformers: penalties, bias and masks, then temperature, top-k,
top-p and min-p.  Each of the last three keeps the likeliest tokens of those that the
one before it kept, and of equally likely ones those with the lowest ids.

A request needs one random number per token, which depends on its seed and on the
token's position in the sequence and on nothing else.  So neither a batch nor the way
that a prompt is prefilled changes an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from mllama.sampling.logits import Logits, processed_logits
from mllama.sampling.state import SamplingSettings, SamplingState, Tokens

_BLOCK = 256
"""Weights that are summed at once where cumulative sums of all would take longer."""

_NUCLEUS = 1024
"""Tokens that nearly always have the mass that top-p asks for."""


def choose_tokens(
    logits: npt.NDArray[np.float32], states: Sequence[SamplingState]
) -> Tokens:
    """Returns the next token of each request.

    Args:
        logits: The model's logits ``[requests, vocabulary]``, which are not changed.
        states: The requests.

    Returns:
        ``[requests]``.
    """
    if all(state.is_argmax for state in states):
        return logits.argmax(axis=-1)
    chosen = map(choose_token, logits, states)
    return np.fromiter(chosen, np.int64, len(states))


def choose_token(logits: Logits, state: SamplingState) -> int:
    """Returns the next token of a request.

    Args:
        logits: The model's logits ``[vocabulary]``, which are not changed.
        state: The request.
    """
    logits = processed_logits(logits, state)
    if state.settings.is_greedy:
        return int(logits.argmax())
    ids, weights = distribution(logits, state.settings)
    uniform = uniform_number(state.settings.seed, state.position)
    index = index_at(weights, uniform)
    if index is None:
        # The logits are NaN or infinite.
        return int(logits.argmax())
    return index if ids is None else int(ids[index])


def distribution(
    logits: Logits, settings: SamplingSettings
) -> tuple[Tokens | None, npt.NDArray[np.float32]]:
    """Returns the tokens to sample from, with weights proportional to probabilities.

    Args:
        logits: Logits ``[vocabulary]``, processed.
        settings: The request's settings; temperature, top-k, top-p and min-p count.

    Returns:
        The tokens in ascending order, or None if it is the whole vocabulary; their
        weights.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # In one array: memory takes longer than arithmetic here.
        scaled = logits - logits.max()
        scaled /= np.float32(settings.temperature)
    ids: Tokens | None = None
    if 0 < settings.top_k < scaled.size:
        ids = largest(scaled, settings.top_k)
        scaled = scaled[ids]
    weights = np.exp(scaled, out=scaled)

    def keep(kept: Tokens) -> None:
        nonlocal ids, weights
        ids = kept if ids is None else ids[kept]
        weights = weights[kept]

    if settings.top_p < 1:
        keep(nucleus(weights, settings.top_p))
    if settings.min_p > 0:
        # The largest weight is 1.
        keep(np.flatnonzero(weights >= settings.min_p))
    return ids, weights


def uniform_number(seed: int, position: int) -> float:
    """Returns a uniform number in [0, 1) for a token of a sequence.

    The generator is Philox, whose stream is a function of a key and a counter.

    Args:
        seed: The request's seed.
        position: The token's position in the sequence.
    """
    bits = np.random.Philox(key=seed, counter=position).random_raw()
    return float(int(bits) >> 11) * 2.0**-53


def largest(values: npt.NDArray[np.float32], count: int) -> Tokens:
    """Returns the indices of the largest values, ascending.

    Args:
        values: ``[n]``.
        count: How many, from 1 to ``n``; of equal values the first ones count.
    """
    threshold = np.partition(values, values.size - count)[values.size - count]
    return _first_at_least(values, threshold, count)


def nucleus(weights: npt.NDArray[np.float32], top_p: float) -> Tokens:
    """Returns the indices of the fewest largest weights with a share of all, ascending.

    Args:
        weights: ``[n]``, at most 1 each.
        top_p: The share, from 0 to 1, that their sum reaches.
    """
    mass = top_p * weights.sum(dtype=np.float64)
    # No weight is greater than 1, so that few of them never have more.
    if mass <= _NUCLEUS < weights.size:
        few = np.sort(np.partition(weights, -_NUCLEUS)[-_NUCLEUS:])[::-1]
        sums = few.cumsum(dtype=np.float64)
        if sums[-1] >= mass:
            last = int(np.searchsorted(sums, mass))
            return _first_at_least(weights, few[last], last + 1)
    ordered = np.sort(weights)[::-1]
    index = index_at(ordered, top_p, side="left")
    if index is None:
        return np.arange(weights.size)
    return _first_at_least(weights, ordered[index], index + 1)


def _first_at_least(
    values: npt.NDArray[np.float32], threshold: np.float32, count: int
) -> Tokens:
    """Returns the indices of values from a threshold on, ascending.

    Args:
        values: ``[n]``.
        threshold: The smallest of them.
        count: How many; of those equal to the threshold the first ones are kept.
    """
    indices = np.flatnonzero(values >= threshold)
    excess = indices.size - count
    if excess > 0:
        equal = np.flatnonzero(values[indices] == threshold)
        indices = np.delete(indices, equal[-excess:])
    return indices


def index_at(
    weights: npt.NDArray[np.float32],
    share: float,
    side: Literal["left", "right"] = "right",
) -> int | None:
    """Returns the first index at which the cumulative sum passes a share of the total.

    Args:
        weights: ``[n]``.
        share: From 0 to 1.
        side: "right" if the sum must be greater than the share, so that a weight of 0
            is never found; "left" if it may be equal.

    Returns:
        None if the total isn't a positive number.
    """
    # The sums of blocks are vectorized, unlike the cumulative sum of all weights.
    whole = weights.size - weights.size % _BLOCK
    blocks = weights[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    tail = weights[whole:].sum(dtype=np.float64)
    ends = np.append(blocks, tail).cumsum()
    if not 0 < ends[-1] < np.inf:
        return None
    mass = share * ends[-1]
    block = min(int(np.searchsorted(ends, mass, side)), ends.size - 1)
    before = ends[block - 1] if block else 0.0
    inside = weights[block * _BLOCK :][:_BLOCK]
    sums = before + inside.cumsum(dtype=np.float64)
    index = int(np.searchsorted(sums, mass, side))
    # Sums of blocks and cumulative sums are rounded differently.
    last = int(np.flatnonzero(inside)[-1]) if inside.any() else 0
    return block * _BLOCK + min(index, last)
