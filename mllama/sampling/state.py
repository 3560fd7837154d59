"""What the sampler knows of a request: its settings, and its tokens so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
Bitmask = npt.NDArray[np.int32]


class AnswerGrammar(Protocol):
    """Knows which tokens may follow in an answer."""

    def bitmask(self, answer: Tokens) -> Bitmask:
        """Returns the tokens that may follow an answer so far.

        Raises:
            ValueError: If none may, or the answer isn't one of the grammar's.
        """
        ...

    def forced_token(self, answer: Tokens) -> int | None:
        """Returns the only token that may follow in an answer so far.

        Returns:
            None if several may, or if :meth:`bitmask` raises.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Sampling settings of a request.  The defaults sample from the model's logits.

    The caller has checked the ranges.

    Attributes:
        temperature: Divisor of the logits; 0 is greedy.
        top_k: Number of the likeliest tokens to sample from; 1 is greedy, and -1 is
            all.
        top_p: Share of the probability mass to sample from.
        min_p: Smallest probability of a token, relative to the likeliest one's.
        frequency_penalty: Subtracted from a token's logit for each time that the
            answer has it.
        presence_penalty: Subtracted once from the logit of each token of the answer.
        repetition_penalty: Divides positive logits, and multiplies negative ones, of
            the tokens of prompt and answer.
        logit_bias: Added to logits, by token.
        min_tokens: Tokens of the answer before which it doesn't end.
        end_tokens: Tokens that end the answer.
        seed: Seed of the random numbers, from 0 to 2^64 - 1.
    """

    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    end_tokens: frozenset[int] = frozenset()
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """Returns True if the likeliest token is chosen."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        """Returns True if the request's tokens so far change its logits."""
        return (
            self.frequency_penalty != 0
            or self.presence_penalty != 0
            or self.repetition_penalty != 1
        )


@dataclass(frozen=True, kw_only=True)
class SamplingState:
    """A request at one step, of which the next token is chosen.

    Attributes:
        settings: The request's settings.
        prompt_length: Tokens of the prompt.
        position: Index of the next token in the sequence: the number of tokens so far.
        tokens: Prompt and answer so far, needed only with penalties or a grammar.
        grammar: Says which tokens may follow; None allows all.
        bitmask: The tokens that a grammar allows next, packed as xgrammar does: bit
            ``i % 32`` of word ``i // 32`` is token ``i``.  None asks ``grammar``.
    """

    settings: SamplingSettings
    prompt_length: int = 0
    position: int = 0
    tokens: Tokens | None = None
    grammar: AnswerGrammar | None = None
    bitmask: Bitmask | None = None

    @property
    def is_argmax(self) -> bool:
        """Returns True if the token is the one with the model's largest logit."""
        settings = self.settings
        return settings.is_greedy and not (
            settings.has_penalties
            or settings.logit_bias
            or self.blocks_end
            or self.grammar is not None
            or self.bitmask is not None
        )

    @property
    def allowed(self) -> Bitmask | None:
        """Returns the tokens that a grammar allows next; None is all.

        Raises:
            ValueError: If the grammar allows none.
        """
        if self.bitmask is not None or self.grammar is None:
            return self.bitmask
        assert self.tokens is not None
        return self.grammar.bitmask(self.tokens[self.prompt_length :])

    @property
    def forced_token(self) -> int | None:
        """Returns the only token that the grammar allows next; None if there are more.

        The state must have no bitmask.
        """
        assert self.bitmask is None
        if self.grammar is None:
            return None
        assert self.tokens is not None
        return self.grammar.forced_token(self.tokens[self.prompt_length :])

    @property
    def blocks_end(self) -> bool:
        """Returns True if the answer is too short to end."""
        answered = self.position - self.prompt_length
        return answered < self.settings.min_tokens

    def after(self, token: int) -> SamplingState:
        """Returns the state of the next step, once this one's token is chosen.

        The state must have no bitmask, which is of this step alone.
        """
        assert self.bitmask is None
        if self is GREEDY:
            return self
        tokens = None if self.tokens is None else np.append(self.tokens, token)
        return replace(self, position=self.position + 1, tokens=tokens)


GREEDY = SamplingState(settings=SamplingSettings(top_k=1))
"""The state of each request that is greedy and changes no logits, at any step."""
