"""What sampling settings mean, written token by token, to compare the sampler with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mllama.sampling.state import SamplingSettings


def probabilities(
    logits: Sequence[float],
    settings: SamplingSettings,
    *,
    prompt: Sequence[int] = (),
    answer: Sequence[int] = (),
    allowed: Sequence[bool] | None = None,
) -> list[float]:
    """Returns the probability of each token to be the next one.

    Args:
        logits: The model's logits.
        settings: The request's settings, of which the temperature is not 0.
        prompt: Tokens of the prompt.
        answer: Tokens of the answer so far.
        allowed: Which tokens a grammar allows.
    """
    values = []
    for token, logit in enumerate(logits):
        value = float(logit)
        if token in prompt or token in answer:
            penalty = settings.repetition_penalty
            value = value / penalty if value > 0 else value * penalty
        count = list(answer).count(token)
        value -= settings.frequency_penalty * count
        value -= settings.presence_penalty if count else 0
        value += settings.logit_bias.get(token, 0)
        blocked = len(answer) < settings.min_tokens and token in settings.end_tokens
        if blocked or (allowed is not None and not allowed[token]):
            value = -math.inf
        values.append(value / settings.temperature)
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if settings.top_k > 0:
        order = order[: settings.top_k]
    masses = normalized([values[token] for token in order])
    kept, mass = 0, 0.0
    while kept < len(order) and (kept == 0 or mass < settings.top_p):
        mass += masses[kept]
        kept += 1
    order = order[:kept]
    masses = normalized([values[token] for token in order])
    order = [
        token
        for token, each in zip(order, masses, strict=True)
        if each >= settings.min_p * masses[0]
    ]
    masses = normalized([values[token] for token in order])
    result = [0.0] * len(values)
    for token, each in zip(order, masses, strict=True):
        result[token] = each
    return result


def normalized(values: Sequence[float]) -> list[float]:
    """Returns the softmax of values."""
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
