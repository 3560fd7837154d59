"""Events to the answer of a chat or of a prompt, whole or in lines."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, Literal

from mllama.requests.events import (
    Event,
    Finished,
    Piece,
    Timings,
    TokenLogprob,
    ToolCallEnded,
    ToolCallEvent,
)
from mllama.requests.tool_calls.collector import ToolCallCollector
from mllama.server.call_arguments import arguments_object
from mllama.server.compact_json import compact
from mllama.server.dialects.log_probability_budget import LogProbabilityBudget
from mllama.server.json_response import JsonText, json_text
from mllama.server.token_text import TokenBytes, chat_entry
from mllama.server.usage import UsageCounter

NDJSON: Final = "application/x-ndjson"
"""The content type of lines of JSON."""


class Clock:
    """The times of a request, in nanoseconds by ``time.perf_counter_ns()``.

    Args:
        arrived_ns: When the request arrived.
    """

    def __init__(self, arrived_ns: int) -> None:
        self._arrived_ns = arrived_ns
        self._loaded_ns = 0

    def loaded(self) -> None:
        """Notes that the body and its images have been read."""
        self._loaded_ns = time.perf_counter_ns() - self._arrived_ns

    def durations(self, usage: UsageCounter, timings: Timings) -> dict[str, int]:
        """Returns the durations and counts at the end of an answer.

        Args:
            usage: Counts the tokens.
            timings: Those of the answer.
        """
        first_ns = round(timings.first_token_seconds * 1e9)
        return {
            "total_duration": time.perf_counter_ns() - self._arrived_ns,
            "load_duration": self._loaded_ns,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": max(0, first_ns - self._loaded_ns),
            "eval_count": usage.completion_tokens,
            "eval_duration": round(timings.decode_seconds * 1e9),
        }


@dataclass(frozen=True)
class AnswerForm:
    """What an answer contains, beside the events.

    Attributes:
        kind: Whether its text is a message, or a response to a prompt.
        model: The model's name, as the request has it.
        token_bytes: Returns what a token stands for.
        clock: The times of the request.
    """

    kind: Literal["chat", "generate"]
    model: str
    token_bytes: TokenBytes
    clock: Clock

    def fields(self, text: str, calls: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """Returns the fields of an answer, or of a piece of it.

        Args:
            text: The text.
            calls: Calls of tools, as messages have them.
        """
        head = {"model": self.model, "created_at": timestamp(time.time())}
        if self.kind == "generate":
            return {**head, "response": text}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = list(calls)
        return {**head, "message": message}

    def entries(self, tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
        """Returns the entries of tokens' log probabilities."""
        entries = [chat_entry(token, self.token_bytes) for token in tokens]
        for entry in entries:
            if not entry["top_logprobs"]:
                del entry["top_logprobs"]
        return entries


def timestamp(seconds: float) -> str:
    """Returns a time since 1970 as RFC 3339 writes it."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def empty_answer(form: AnswerForm, reason: Literal["load", "unload"]) -> dict[str, Any]:
    """Returns the answer to a request that asks for none.

    Args:
        form: What the answer contains.
        reason: What such a request asks for.
    """
    return {**form.fields(""), "done": True, "done_reason": reason}


async def whole_answer(
    events: AsyncIterable[Event], form: AnswerForm, usage: UsageCounter
) -> dict[str, Any]:
    """Returns a whole answer.

    A call that a limit has cut short is left out, as its arguments are no object.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.

    Raises:
        RequestRejected: If it has too many log probabilities.
    """
    text: list[str] = []
    entries: list[JsonText] = []
    budget = LogProbabilityBudget()
    calls = _CompleteCalls()
    end = Finished(0, "stop")
    async for event in events:
        usage.add(event)
        if isinstance(event, Piece):
            text.append(event.text)
            budget.spend(event.logprobs)
            entries += map(json_text, form.entries(event.logprobs))
        elif isinstance(event, ToolCallEvent):
            calls.add(event)
        elif isinstance(event, Finished):
            end = event
    return {
        **form.fields("".join(text), calls.calls),
        **_logprobs(entries),
        **_end(end, form, usage),
    }


async def answer_lines(
    events: AsyncIterable[Event], form: AnswerForm, usage: UsageCounter
) -> AsyncGenerator[bytes, None]:
    """Yields the lines of an answer, in which calls are whole.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.
    """
    calls = _CompleteCalls()
    async for event in events:
        usage.add(event)
        if isinstance(event, Piece) and (event.text or event.logprobs):
            logprobs = _logprobs(form.entries(event.logprobs))
            yield _line({**form.fields(event.text), **logprobs, "done": False})
        elif isinstance(event, ToolCallEvent):
            if (call := calls.add(event)) is not None:
                yield _line({**form.fields("", [call]), "done": False})
        elif isinstance(event, Finished):
            yield _line({**form.fields(""), **_end(event, form, usage)})


def _logprobs(entries: list[dict[str, Any]] | list[JsonText]) -> dict[str, Any]:
    """Returns the field with log probabilities, if there are any."""
    return {"logprobs": entries} if entries else {}


def _end(end: Finished, form: AnswerForm, usage: UsageCounter) -> dict[str, Any]:
    """Returns the fields of the end of an answer."""
    return {
        "done": True,
        # Ollama has no reason for calls.
        "done_reason": "length" if end.reason == "length" else "stop",
        **form.clock.durations(usage, end.timings),
    }


def _line(value: dict[str, Any]) -> bytes:
    return f"{compact(value)}\n".encode()


class _CompleteCalls:
    """The complete calls of an answer.

    Attributes:
        calls: The calls so far, as messages have them.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self._begun = ToolCallCollector()

    def add(self, event: ToolCallEvent) -> dict[str, Any] | None:
        """Adds an event, and returns the call that it completes."""
        self._begun.add(event)
        if not isinstance(event, ToolCallEnded):
            return None
        call = self._begun.calls[-1]
        function = {
            "index": len(self.calls),
            "name": call.name,
            "arguments": arguments_object(call.arguments),
        }
        self.calls.append({"id": call.id, "function": function})
        return self.calls[-1]
