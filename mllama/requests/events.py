"""The events of an answer, in the order in which an engine reports them.

A stream has one :class:`Accepted`, one :class:`PromptRead`, then the :class:`Piece`
events of all choices, in which each choice ends with a :class:`Finished`.  If the
request asks for attention maps, an :class:`AnswerAttention` for each choice follows.
Usage is ``PromptRead``'s prompt tokens, once, and the sum of the choices' completion
tokens.

A call of a tool is a :class:`ToolCallStarted`, then :class:`ToolCallArguments` while
they are generated, and a :class:`ToolCallEnded`.  The pieces of its choice have its
tokens, and its text only if it is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mllama.requests.attention import AttentionMaps
    from mllama.requests.attention_words import AttentionToken, AttentionWord

FinishReason = Literal["stop", "length", "tool_calls"]
"""Why an answer ended: by the model or a stop, by a limit, or to have tools called."""


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


def count_log_probabilities(tokens: Iterable[TokenLogprob | None]) -> int:
    """Returns how many tokens have, those of alternatives included."""
    return sum(len(each.top) + 1 for each in tokens if each is not None)


@dataclass(frozen=True)
class Accepted:
    """The request is valid, and has been handed to the model.

    It comes at once, so that a stream's headers need not wait for the first token.
    """


@dataclass(frozen=True)
class PromptRead:
    """The model has read the prompt, and the first token comes next.

    Attributes:
        token_ids: The prompt's tokens, in which each image is one.
        image_tokens: Tokens of the images, in addition.
        cached_tokens: Tokens whose keys and values the cache had.
        logprobs: A log probability for each token of the prompt where they were asked
            for; the first token, and image placeholders, have None.
    """

    token_ids: Sequence[int]
    image_tokens: int
    cached_tokens: int = 0
    logprobs: Sequence[TokenLogprob | None] | None = None

    @property
    def prompt_tokens(self) -> int:
        """Returns the number of tokens that usage counts: text and images."""
        return len(self.token_ids) + self.image_tokens


@dataclass(frozen=True)
class Piece:
    """A piece of an answer.

    Attributes:
        choice: The answer, from 0.
        text: Text to append, without special tokens and stop strings; empty while a
            character is incomplete or a stop string may have begun.
        token_ids: Tokens since the last piece.
        logprobs: One for each of these tokens, where they were asked for.
    """

    choice: int
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True)
class ToolCallStarted:
    """The model calls a tool.  Its arguments follow.

    Attributes:
        choice: The answer, from 0.
        index: The call among those of the answer, from 0.
        id: Names the call, so that a result can be for it.
        name: The tool.
    """

    choice: int
    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallArguments:
    """A piece of a call's arguments.

    Attributes:
        choice: The answer, from 0.
        index: The call among those of the answer.
        text: Text to append to the arguments, which are a JSON object in the end.
    """

    choice: int
    index: int
    text: str


@dataclass(frozen=True)
class ToolCallEnded:
    """A call is complete.

    A limit may end an answer within a call, which then has no such event.

    Attributes:
        choice: The answer, from 0.
        index: The call among those of the answer.
    """

    choice: int
    index: int


@dataclass(frozen=True)
class ToolCallWithdrawn:
    """What began as a call is none: its arguments aren't JSON, or its end is missing.

    A piece with all of its text follows, and no other call.

    Attributes:
        choice: The answer, from 0.
        index: The call among those of the answer, whose last one it is.
    """

    choice: int
    index: int


ToolCallEvent = ToolCallStarted | ToolCallArguments | ToolCallEnded | ToolCallWithdrawn


@dataclass(frozen=True)
class Timings:
    """How long an answer took.

    Attributes:
        first_token_seconds: From the request to the answer's first token.
        decode_seconds: From the first token to the last.
    """

    first_token_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes:
        choice: The answer, from 0.
        reason: Why it ended.
        stop: The stop string or the id of the stop token that ended it; None for the
            model's own end tokens and for limits.
        completion_tokens: Tokens of the answer, its end token included.
        timings: How long it took.
    """

    choice: int
    reason: FinishReason
    stop: str | int | None = None
    completion_tokens: int = 0
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class AnswerAttention:
    """Where the words of an answer looked, after all answers, if that was asked for.

    Attributes:
        choice: The answer, from 0.
        tokens: The tokens that have maps, in order.
        words: The words that they make.
        maps: The maps; None if they failed.
        error: Why they failed, in one line.
    """

    choice: int
    tokens: Sequence[AttentionToken] = ()
    words: Sequence[AttentionWord] = ()
    maps: AttentionMaps | None = None
    error: str | None = None


Event = Accepted | PromptRead | Piece | ToolCallEvent | Finished | AnswerAttention
