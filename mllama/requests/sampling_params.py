"""Sampling parameters of a request, validated before anything is loaded."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from mllama.errors import MllamaError

MAX_TEMPERATURE = 2.0
"""The limit of OpenAI's API and of MAX."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters of one request.

    Attributes:
        max_new_tokens: The longest answer in tokens; -1 is limited by the context only.
        temperature: Divisor of the logits before sampling.  0 is greedy; None is the
            checkpoint's default.
        top_k: The number of most likely tokens to sample from.  1 is greedy and -1
            samples from all tokens.  None is greedy, unless temperature, top_p or seed
            is set: then it samples from all.
        top_p: The share of the probability mass to sample from.
        seed: The seed, which makes sampling repeatable; None draws one.

    Raises:
        MllamaError: If a value is out of range.
    """

    max_new_tokens: int = -1
    temperature: float | None = None
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _require_integer("max_new_tokens", self.max_new_tokens)
        if self.top_k is not None:
            _require_integer("top_k", self.top_k)
        if self.temperature is not None:
            _require_range("temperature", self.temperature, MAX_TEMPERATURE)
        _require_range("top_p", self.top_p, 1.0)
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise MllamaError(f"seed must be from 0 to 2^63 - 1, not {self.seed}")

    def to_max(self, *, default_temperature: float | None, vocabulary: int) -> Any:
        """Returns MAX's ``SamplingParams``.

        Args:
            default_temperature: The checkpoint's default, if it has one.
            vocabulary: The number of tokens in the vocabulary.
        """
        from max.pipelines.context import SamplingParams

        temperature = self.temperature
        if temperature is None:
            temperature = 1.0 if default_temperature is None else default_temperature
        top_k = self.top_k
        if top_k is None:
            samples = (self.temperature, self.seed) != (None, None) or self.top_p < 1
            top_k = -1 if samples else 1
        return SamplingParams(
            # MAX reserves memory for top_k candidates, even beyond the vocabulary.
            top_k=-1 if top_k >= vocabulary else top_k,
            top_p=self.top_p,
            temperature=temperature,
            max_new_tokens=None if self.max_new_tokens == -1 else self.max_new_tokens,
            seed=random.getrandbits(32) if self.seed is None else self.seed,
        )


def _require_integer(name: str, value: int) -> None:
    if value != -1 and value < 1:
        raise MllamaError(f"{name} must be -1 or at least 1, not {value}")


def _require_range(name: str, value: float, limit: float) -> None:
    if not math.isfinite(value) or not 0 <= value <= limit:
        raise MllamaError(f"{name} must be from 0 to {limit:g}, not {value}")
