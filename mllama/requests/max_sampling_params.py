"""Sampling parameters as MAX takes them, with an engine's defaults for open ones."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from mllama.requests.sampling_params import Sampling
from mllama.requests.value_checks import MAX_INTEGER


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What an engine uses for settings that a request leaves open.

    Attributes:
        temperature: Divisor of the logits.
        top_k: Number of likeliest tokens to sample from.  1 is greedy, unless a request
            has a setting that only sampling uses; -1 is all.
        top_p: Share of the probability mass to sample from.
        repetition_penalty: Divisor of the logits of tokens that appeared.
        max_new_tokens: The longest answer in tokens; -1 is limited by the context only.
    """

    temperature: float = 1.0
    top_k: int = 1
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = -1


def max_sampling_params(
    sampling: Sampling,
    defaults: SamplingDefaults,
    *,
    vocabulary: int,
    choice: int = 0,
    choices: int = 1,
) -> Any:
    """Returns MAX's ``SamplingParams``, without stops and biases.

    Args:
        sampling: What the request gives.
        defaults: For what it leaves open.
        vocabulary: The number of tokens in the vocabulary.
        choice: The answer among those of its request; it changes the seed.
        choices: The number of these answers.  Several are sampled, unless ``top_k`` or
            ``temperature`` makes them greedy.
    """
    from max.pipelines.context import SamplingParams

    def given(value: Any, default: Any) -> Any:
        return default if value is None else value

    top_k = given(sampling.top_k, defaults.top_k)
    if sampling.top_k is None and top_k == 1 and (sampling.samples or choices > 1):
        top_k = -1
    limit = sampling.max_new_tokens
    if limit == -1 and defaults.max_new_tokens != -1:
        limit = max(defaults.max_new_tokens, sampling.min_tokens)
    seed = random.getrandbits(32) if sampling.seed is None else sampling.seed + choice
    return SamplingParams(
        # MAX reserves memory for top_k candidates, even beyond the vocabulary.
        top_k=-1 if top_k >= vocabulary else top_k,
        top_p=given(sampling.top_p, defaults.top_p),
        min_p=sampling.min_p,
        temperature=given(sampling.temperature, defaults.temperature),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=given(
            sampling.repetition_penalty, defaults.repetition_penalty
        ),
        max_new_tokens=None if limit == -1 else limit,
        min_new_tokens=sampling.min_tokens,
        ignore_eos=sampling.ignore_eos,
        seed=seed % (MAX_INTEGER + 1),
    )
