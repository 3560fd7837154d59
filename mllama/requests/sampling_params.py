"""Sampling parameters of a request, validated before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from mllama.errors import RequestError
from mllama.requests.format_settings import FormatFields
from mllama.requests.value_checks import MAX_INTEGER, integer, is_list, number, wrong

MAX_TEMPERATURE: Final = 2.0
"""The limit of OpenAI's API and of MAX."""

MAX_PENALTY: Final = 2.0
"""The limit of OpenAI's API and of MAX for presence and frequency penalties."""

MAX_BIAS: Final = 100.0
"""The limit of OpenAI's API for a token's bias."""

MAX_LOGPROBS: Final = 20
"""The limit of OpenAI's API for the likeliest tokens in a token's place."""


class SamplingFields(TypedDict, total=False):
    """The parameters of :class:`Sampling`, for functions that pass them on."""

    max_new_tokens: int
    min_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int | None
    prompt_logprobs: int | None


class AnswerFields(SamplingFields, FormatFields, total=False):
    """The same with the number of answers, and their format."""

    n: int


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters of one request.

    Attributes:
        max_new_tokens: The longest answer in tokens; -1 is limited by the context or
            the engine's default only, and 0 only reads the prompt.
        min_tokens: Tokens of the answer before which neither the model, a stop token
            nor a stop string ends it.
        temperature: Divisor of the logits before sampling.  0 is greedy; None is the
            checkpoint's default.
        top_k: The number of most likely tokens to sample from.  1 is greedy and -1
            samples from all tokens.  None is the engine's default, which is greedy
            unless temperature, top_p, min_p or seed is set: then it samples from all.
        top_p: The share of the probability mass to sample from; None is the
            checkpoint's default.
        min_p: Smallest probability of a token to sample, relative to the likeliest
            one's.
        presence_penalty: Subtracted once from the logit of each token of the answer.
        frequency_penalty: Subtracted from a token's logit for each time that the answer
            has it.
        repetition_penalty: Divides positive logits, and multiplies negative ones, of
            the tokens of prompt and answer.  None is the checkpoint's default.
        logit_bias: Added to logits, by token.
        seed: The seed, which makes sampling repeatable; None draws one.
        stop: A string or strings that end the answer and are not part of it.  Empty
            ones are ignored.
        stop_token_ids: Tokens that end the answer, beside the model's own.
        ignore_eos: Whether the model's own end tokens don't end the answer.
        logprobs: Number of likeliest tokens whose log probabilities come with each
            token of the answer; 0 is the token's alone, -1 is the whole vocabulary, and
            None is none.
        prompt_logprobs: As ``logprobs``, for the tokens of the prompt.

    Raises:
        RequestError: If a value has another type, or is out of range.
    """

    max_new_tokens: int = -1
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check_integers()
        self._check_numbers()
        self._check_stops()
        self._check_bias()
        if not isinstance(self.ignore_eos, bool):
            raise wrong("ignore_eos", "be true or false", self.ignore_eos)
        if -1 < self.max_new_tokens < self.min_tokens:
            raise RequestError(
                "min_tokens must be at most the answer's limit, "
                f"{self.max_new_tokens}, not {self.min_tokens}",
                "min_tokens",
            )

    def _check_integers(self) -> None:
        for name, least, most in (
            ("max_new_tokens", -1, MAX_INTEGER),
            ("min_tokens", 0, MAX_INTEGER),
            ("top_k", -1, MAX_INTEGER),
            ("seed", 0, MAX_INTEGER),
            ("logprobs", -1, MAX_LOGPROBS),
            ("prompt_logprobs", -1, MAX_LOGPROBS),
        ):
            value = getattr(self, name)
            if value is None and name not in ("max_new_tokens", "min_tokens"):
                continue
            self._set(name, integer(name, value, least, most))
        if self.top_k == 0:
            raise wrong("top_k", "be -1 or at least 1", self.top_k)

    def _check_numbers(self) -> None:
        for name, least, most in (
            ("temperature", 0.0, MAX_TEMPERATURE),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("presence_penalty", -MAX_PENALTY, MAX_PENALTY),
            ("frequency_penalty", -MAX_PENALTY, MAX_PENALTY),
            ("repetition_penalty", 0.0, math.inf),
        ):
            value = getattr(self, name)
            if value is None and name in ("temperature", "top_p", "repetition_penalty"):
                continue
            self._set(name, number(name, value, least, most))
        if self.repetition_penalty == 0:
            raise wrong("repetition_penalty", "be greater than 0", 0)

    def _check_stops(self) -> None:
        stop = self.stop
        texts = [stop] if isinstance(stop, str) else stop
        if texts is None:
            texts = ()
        if not is_list(texts) or not all(isinstance(text, str) for text in texts):
            raise wrong("stop", "be a string or a list of strings", stop)
        self._set("stop", tuple(text for text in texts if text))
        ids = self.stop_token_ids
        if not is_list(ids):
            raise wrong("stop_token_ids", "be a list of token ids", ids)
        self._set(
            "stop_token_ids",
            tuple(integer("stop_token_ids", each, 0, MAX_INTEGER) for each in ids),
        )

    def _check_bias(self) -> None:
        given = {} if self.logit_bias is None else self.logit_bias
        if not isinstance(given, Mapping):
            raise wrong(
                "logit_bias", "be an object of biases by token id", self.logit_bias
            )
        bias = {
            integer("logit_bias", token, 0, MAX_INTEGER): number(
                "logit_bias", value, -MAX_BIAS, MAX_BIAS
            )
            for token, value in given.items()
        }
        self._set("logit_bias", bias)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Returns the strings that end the answer."""
        assert isinstance(self.stop, tuple)
        return self.stop

    @property
    def biases(self) -> Mapping[int, float]:
        """Returns what is added to logits, by token."""
        assert isinstance(self.logit_bias, dict)
        return self.logit_bias

    @property
    def samples(self) -> bool:
        """Returns True if a setting is given that a greedy answer has no use for."""
        given = (self.temperature, self.top_p, self.seed) != (None, None, None)
        return given or self.min_p > 0

    def check_vocabulary(self, vocabulary: int) -> None:
        """Checks the ids of tokens.

        Args:
            vocabulary: The number of tokens in the vocabulary.

        Raises:
            RequestError: If one is not in the vocabulary.
        """
        for name in ("stop_token_ids", "logit_bias"):
            for token in getattr(self, name):
                if token >= vocabulary:
                    raise RequestError(
                        f"{name} must have token ids from 0 to {vocabulary - 1}, "
                        f"not {token}",
                        name,
                    )
