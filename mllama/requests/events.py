"""The events of an answer, in the order in which an engine reports them.

A stream has one :class:`PromptRead`, then the :class:`Piece` events of all choices, in
which each choice ends with a :class:`Finished`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length"]
"""Why an answer ended: by the model or a stop, or by a limit."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log probability, and those of the likeliest tokens in its place.

    Attributes:
        token_id: The token.
        logprob: Its log probability, of the logits as they are, before any setting.
        top: Log probabilities of the likeliest tokens by id, likeliest first.
    """

    token_id: int
    logprob: float
    top: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptRead:
    """The prompt has been tokenized and handed to the model, or read by it.

    Attributes:
        token_ids: The prompt's tokens, in which each image is one.
        image_tokens: Tokens of the images.
        cached_tokens: Tokens whose keys and values the cache had.
        logprobs: A log probability for each token of the prompt where they were asked
            for; the first token, and image placeholders, have None.
    """

    token_ids: Sequence[int]
    image_tokens: int
    cached_tokens: int = 0
    logprobs: Sequence[TokenLogprob | None] | None = None


@dataclass(frozen=True)
class Piece:
    """A piece of an answer.

    Attributes:
        choice: The answer, from 0.
        text: Text to append, without special tokens and stop strings.
        token_ids: Tokens since the last piece.
        logprobs: One for each of these tokens, where they were asked for.
    """

    choice: int
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes:
        choice: The answer, from 0.
        reason: Why it ended.
        stop: The stop string or the id of the stop token that ended it; None for the
            model's own end tokens and for limits.
    """

    choice: int
    reason: FinishReason
    stop: str | int | None = None


Event = PromptRead | Piece | Finished
