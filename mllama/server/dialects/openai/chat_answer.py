"""Events to the answer of a chat, whole or in chunks."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Collection,
    Iterable,
    Iterator,
)
from dataclasses import dataclass, field
from typing import Any

from mllama.requests.events import Event, Finished, Piece, PromptRead, TokenLogprob
from mllama.requests.tools import ToolCall, ToolCallParser
from mllama.server.dialects.openai.answer_head import (
    AnswerHead,
    ChunkWriter,
    UsageCounter,
    compact,
)
from mllama.server.dialects.openai.token_text import (
    TokenBytes,
    chat_entry,
    prompt_entries,
)


@dataclass(frozen=True, kw_only=True)
class ChatForm:
    """What a chat's answer contains, beside the events.

    Attributes:
        head: The answer's head.
        token_bytes: Returns what a token stands for.
        choices: Number of answers.
        echo: Text that each answer begins with.
        tools: Names of the tools that the model may call.
        parallel_calls: Whether it may call several at once.
        logprobs: Whether answers have their tokens' log probabilities.
        include_usage: Whether a stream ends with the usage.
        continuous_usage: Whether each of its chunks has the usage so far.
    """

    head: AnswerHead
    token_bytes: TokenBytes
    choices: int = 1
    echo: str = ""
    tools: Collection[str] = ()
    parallel_calls: bool = True
    logprobs: bool = False
    include_usage: bool = False
    continuous_usage: bool = False

    def calls(self, found: list[ToolCall]) -> list[dict[str, Any]]:
        """Returns the calls of an answer, in the form of the API."""
        return [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in (found if self.parallel_calls else found[:1])
        ]


@dataclass
class _Choice:
    """An answer as far as it is known."""

    parser: ToolCallParser
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    reason: str = "stop"


async def whole_chat(
    events: AsyncIterable[Event], form: ChatForm, usage: UsageCounter
) -> dict[str, Any]:
    """Returns the answer to a chat.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.
    """
    choices = [
        _Choice(ToolCallParser(form.tools), [form.echo]) for _ in range(form.choices)
    ]
    prompt_logprobs = None
    async for event in events:
        usage.add(event)
        if isinstance(event, Piece):
            choice = choices[event.choice]
            choice.text.append(choice.parser.push(event.text))
            choice.logprobs += event.logprobs
        elif isinstance(event, Finished):
            choice = choices[event.choice]
            text, calls = choice.parser.finish()
            choice.text.append(text)
            choice.calls = form.calls(calls)
            choice.reason = "tool_calls" if calls else event.reason
        elif isinstance(event, PromptRead) and event.logprobs is not None:
            prompt_logprobs = prompt_entries(event.logprobs, form.token_bytes)
    answer = {
        **form.head.fields("chat.completion"),
        "choices": [
            _whole_choice(index, choice, form) for index, choice in enumerate(choices)
        ],
        "usage": usage.usage(),
        "service_tier": None,
    }
    if prompt_logprobs is not None:
        answer["prompt_logprobs"] = prompt_logprobs
    return answer


def _whole_choice(index: int, choice: _Choice, form: ChatForm) -> dict[str, Any]:
    text = "".join(choice.text)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.calls and not text else text,
        "refusal": None,
    }
    if choice.calls:
        message["tool_calls"] = choice.calls
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(choice.logprobs, form) if form.logprobs else None,
        "finish_reason": choice.reason,
    }


async def chat_chunks(
    events: AsyncIterable[Event], form: ChatForm, usage: UsageCounter
) -> AsyncGenerator[bytes, None]:
    """Yields the server-sent events of a chat's answer.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.
    """
    writer = ChunkWriter(
        form.head,
        "chat.completion.chunk",
        usage if form.include_usage else None,
        form.continuous_usage,
    )
    parsers = [ToolCallParser(form.tools) for _ in range(form.choices)]
    start = compact({"role": "assistant", "content": form.echo})
    yield b"".join(
        writer.chunk(_chunk_choice(index, start)) for index in range(form.choices)
    )
    async for event in events:
        usage.add(event)
        if isinstance(event, Piece):
            text = parsers[event.choice].push(event.text)
            logprobs = "null"
            if form.logprobs and event.logprobs:
                logprobs = compact(_logprobs(event.logprobs, form))
            elif not text:
                continue
            delta = f'{{"content":{compact(text)}}}'
            yield writer.chunk(_chunk_choice(event.choice, delta, logprobs))
        elif isinstance(event, Finished):
            text, calls = parsers[event.choice].finish()
            yield b"".join(
                writer.chunk(choice)
                for choice in _last_choices(event, text, form.calls(calls))
            )
    yield writer.end()


def _logprobs(tokens: Iterable[TokenLogprob], form: ChatForm) -> dict[str, Any]:
    """Returns the log probabilities of a message, or of a piece of it."""
    content = [chat_entry(token, form.token_bytes) for token in tokens]
    return {"content": content, "refusal": None}


def _last_choices(
    event: Finished, text: str, calls: list[dict[str, Any]]
) -> Iterator[str]:
    """Yields the last chunks' choices of an answer."""
    if text:
        yield _chunk_choice(event.choice, compact({"content": text}))
    if calls:
        numbered = [{"index": index, **call} for index, call in enumerate(calls)]
        yield _chunk_choice(event.choice, compact({"tool_calls": numbered}))
    reason = "tool_calls" if calls else event.reason
    yield _chunk_choice(event.choice, "{}", reason=f'"{reason}"')


def _chunk_choice(
    index: int, delta: str, logprobs: str = "null", reason: str = "null"
) -> str:
    """Returns the JSON of a chunk's choice."""
    return (
        f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},'
        f'"finish_reason":{reason}}}'
    )
