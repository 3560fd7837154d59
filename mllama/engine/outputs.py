"""What ``LLM`` returns: complete answers, and their pieces while they are generated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mllama.requests.events import FinishReason, TokenLogprob, ToolCallEvent
from mllama.requests.tool_calls.collector import ToolCall

if TYPE_CHECKING:
    from mllama.engine.attention.attention import Attention


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer, as ``LLM.chat(..., stream=True)`` yields it.

    The texts of an answer's chunks, joined, are the answer.

    Attributes:
        text: Text to append to the answer; empty while a character is incomplete or
            might belong to a stop string.
        token_ids: Tokens generated since the answer's last chunk.
        finish_reason: None until the answer's last chunk; then "stop" if the model or a
            stop ended the answer, "length" if a limit did, or "tool_calls" if the model
            waits for the results of its calls.
        choice: The answer, from 0, if there are several.
        logprobs: Log probabilities of ``token_ids`` if they were asked for.
        tool_calls: Beginnings, pieces of arguments, and ends of the answer's calls.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    choice: int = 0
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[ToolCallEvent] = field(default_factory=list)


@dataclass(frozen=True)
class Choice:
    """One of the answers to a prompt.

    Attributes:
        text: The answer, without special tokens and without the stop string.
        token_ids: Generated tokens, including an end token.
        finish_reason: "stop" if the model or a stop ended the answer, "length" if
            ``max_new_tokens`` or the context did, "tool_calls" if it calls tools.
        stop: The stop string, or the id of the stop token, that ended the answer, if
            one did.
        logprobs: Log probabilities of ``token_ids`` if they were asked for.
        tool_calls: The tools that the answer calls.
        attention: Where its tokens looked, if that was asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop: str | int | None = None
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    attention: Attention | None = None

    @property
    def message(self) -> dict[str, Any]:
        """Returns the answer as a message, for the next turn of the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [call.message() for call in self.tool_calls]
        return message


@dataclass(frozen=True)
class Output:
    """A complete answer, with token counts and times.

    For example::

        output = llm.generate("What is in the picture?", ["photo.jpg"])
        print(output.text, output.finish_reason, output.completion_tokens)

        output = llm.generate("A caption:", ["photo.jpg"], n=3, temperature=1)
        for choice in output.choices:
            print(choice.text)

    Attributes:
        text: The answer, without special tokens and without the stop string; the first
            one of several.
        token_ids: Its generated tokens, including an end token.
        finish_reason: "stop" if the model or a stop ended the answer, "length" if
            ``max_new_tokens`` or the context did, "tool_calls" if it calls tools.
        prompt_tokens: Tokens of the prompt's text, in which each image is one token,
            plus ``image_tokens``.
        image_tokens: Image tokens of the images, to which the text attends.
        completion_tokens: Number of generated tokens, of all answers together.
        time_to_first_token_seconds: Seconds from the request to its first token.
        tokens_per_second: Rate of the tokens after the first; None if there are none.
        choices: All answers, in order; the first one is also in this object.
        prompt_token_ids: Tokens of the prompt's text, in which each image is one.
        cached_tokens: Tokens of the prompt's text that the prefix cache had.
        prompt_logprobs: Log probabilities of ``prompt_token_ids`` if they were asked
            for; the first one is None.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    time_to_first_token_seconds: float
    tokens_per_second: float | None
    choices: list[Choice] = field(default_factory=list)
    prompt_token_ids: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def stop(self) -> str | int | None:
        """Returns the stop string or stop token that ended the answer, if one did."""
        return self.choices[0].stop

    @property
    def tool_calls(self) -> list[ToolCall]:
        """Returns the tools that the answer calls."""
        return self.choices[0].tool_calls

    @property
    def message(self) -> dict[str, Any]:
        """Returns the answer as a message, for the next turn of the conversation."""
        return self.choices[0].message

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """Returns log probabilities of ``token_ids`` if they were asked for."""
        return self.choices[0].logprobs

    @property
    def attention(self) -> Attention | None:
        """Returns where the answer's tokens looked, if that was asked for."""
        return self.choices[0].attention
