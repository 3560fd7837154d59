"""Events to the answer of a chat, whole or in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mllama.requests.events import (
    AnswerAttention,
    Event,
    Finished,
    Piece,
    PromptRead,
    TokenLogprob,
    ToolCallArguments,
    ToolCallEvent,
    ToolCallStarted,
)
from mllama.requests.tool_calls.collector import ToolCallCollector
from mllama.server.compact_json import compact
from mllama.server.dialects.log_probability_budget import LogProbabilityBudget
from mllama.server.dialects.openai.answer_head import (
    AnswerHead,
    ChunkWriter,
    usage_object,
)
from mllama.server.dialects.openai.attention_answer import attention_object
from mllama.server.json_response import JsonText, json_text
from mllama.server.token_text import (
    TokenBytes,
    chat_entry,
    prompt_entries,
)
from mllama.server.turns import in_turns
from mllama.server.usage import UsageCounter


@dataclass(frozen=True, kw_only=True)
class ChatForm:
    """What a chat's answer contains, beside the events.

    Attributes:
        head: The answer's head.
        token_bytes: Returns what a token stands for.
        choices: Number of answers.
        echo: Text that each answer begins with.
        logprobs: Whether answers have their tokens' log probabilities.
        include_usage: Whether a stream ends with the usage.
        continuous_usage: Whether each of its chunks has the usage so far.
    """

    head: AnswerHead
    token_bytes: TokenBytes
    choices: int = 1
    echo: str = ""
    logprobs: bool = False
    include_usage: bool = False
    continuous_usage: bool = False


@dataclass
class _Choice:
    """An answer as far as it is known."""

    text: list[str]
    logprobs: list[JsonText] = field(default_factory=list)
    calls: ToolCallCollector = field(default_factory=ToolCallCollector)
    reason: str = "stop"
    attention: dict[str, Any] | None = None


async def whole_chat(
    events: AsyncIterable[Event], form: ChatForm, usage: UsageCounter
) -> dict[str, Any]:
    """Returns the answer to a chat.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.

    Raises:
        RequestRejected: If it has too many log probabilities.
    """
    choices = [_Choice([form.echo]) for _ in range(form.choices)]
    prompt_logprobs = None
    budget = LogProbabilityBudget()
    async for event in events:
        usage.add(event)
        if isinstance(event, Piece):
            choice = choices[event.choice]
            choice.text.append(event.text)
            # One by one, as all at once would hold the event loop.
            if form.logprobs:
                budget.spend(event.logprobs)
                choice.logprobs += map(json_text, _entries(event.logprobs, form))
        elif isinstance(event, ToolCallEvent):
            choices[event.choice].calls.add(event)
        elif isinstance(event, Finished):
            choice = choices[event.choice]
            choice.reason = event.reason
        elif isinstance(event, AnswerAttention):
            choice = choices[event.choice]
            choice.attention = await asyncio.to_thread(attention_object, event)
        elif isinstance(event, PromptRead) and event.logprobs is not None:
            budget.spend(event.logprobs)
            prompt_logprobs = await in_turns(
                prompt_entries(event.logprobs, form.token_bytes)
            )
    answer = {
        **form.head.fields("chat.completion"),
        "choices": [
            _whole_choice(index, choice, form) for index, choice in enumerate(choices)
        ],
        "usage": usage_object(usage),
        "service_tier": None,
    }
    if prompt_logprobs is not None:
        answer["prompt_logprobs"] = prompt_logprobs
    return answer


def _whole_choice(index: int, choice: _Choice, form: ChatForm) -> dict[str, Any]:
    text, calls = "".join(choice.text), choice.calls.calls
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if calls and not text else text,
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = [call.message() for call in calls]
    whole: dict[str, Any] = {
        "index": index,
        "message": message,
        "logprobs": _logprobs(choice.logprobs) if form.logprobs else None,
        "finish_reason": choice.reason,
    }
    if choice.attention is not None:
        whole["attention"] = choice.attention
    return whole


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
    start = compact({"role": "assistant", "content": form.echo})
    yield b"".join(
        writer.chunk(_chunk_choice(index, start)) for index in range(form.choices)
    )
    async for event in events:
        usage.add(event)
        if isinstance(event, Piece):
            logprobs = "null"
            if form.logprobs and event.logprobs:
                logprobs = compact(_logprobs(_entries(event.logprobs, form)))
            elif not event.text:
                continue
            delta = f'{{"content":{compact(event.text)}}}'
            yield writer.chunk(_chunk_choice(event.choice, delta, logprobs))
        elif isinstance(event, (ToolCallStarted, ToolCallArguments)):
            delta = compact({"tool_calls": [_call_delta(event)]})
            yield writer.chunk(_chunk_choice(event.choice, delta))
        elif isinstance(event, Finished):
            end = _chunk_choice(event.choice, "{}", reason=f'"{event.reason}"')
            yield writer.chunk(end)
        elif isinstance(event, AnswerAttention):
            yield writer.chunk(await asyncio.to_thread(_attention_choice, event))
    yield writer.end()


def _entries(tokens: Iterable[TokenLogprob], form: ChatForm) -> list[dict[str, Any]]:
    """Returns the entries of tokens' log probabilities."""
    return [chat_entry(token, form.token_bytes) for token in tokens]


def _logprobs(entries: list[dict[str, Any]] | list[JsonText]) -> dict[str, Any]:
    """Returns the log probabilities of a message, or of a piece of it."""
    return {"content": entries, "refusal": None}


def _attention_choice(event: AnswerAttention) -> str:
    """Returns the JSON of the choice of a chunk that has attention maps."""
    choice = _chunk_choice(event.choice, "{}")
    return f'{choice[:-1]},"attention":{compact(attention_object(event))}}}'


def _call_delta(event: ToolCallStarted | ToolCallArguments) -> dict[str, Any]:
    """Returns what a chunk adds to a call: its head, or a piece of its arguments."""
    if isinstance(event, ToolCallArguments):
        return {"index": event.index, "function": {"arguments": event.text}}
    return {
        "index": event.index,
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, "arguments": ""},
    }


def _chunk_choice(
    index: int, delta: str, logprobs: str = "null", reason: str = "null"
) -> str:
    """Returns the JSON of a chunk's choice."""
    return (
        f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},'
        f'"finish_reason":{reason}}}'
    )
