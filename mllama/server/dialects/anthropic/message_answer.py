"""Events to a message, whole or as the events of a stream."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mllama.requests.events import (
    Event,
    Finished,
    Piece,
    PromptRead,
    ToolCallArguments,
    ToolCallEnded,
    ToolCallEvent,
    ToolCallStarted,
    ToolCallWithdrawn,
)
from mllama.requests.tool_calls.collector import ToolCallCollector
from mllama.server.call_arguments import arguments_object
from mllama.server.compact_json import compact
from mllama.server.usage import UsageCounter

PING_SECONDS: Final = 10.0
"""The longest silence of a stream."""


@dataclass(frozen=True, kw_only=True)
class MessageForm:
    """What an answer contains, beside the events.

    Attributes:
        model: The served model's name.
        max_tokens: The longest answer in tokens.
        early_tools: Tools whose input is streamed as it is generated, before it is
            certain that it is a call; None is all.
        id: The answer's own name.
    """

    model: str
    max_tokens: int
    early_tools: frozenset[str] | None = frozenset()
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    def message(self, usage: UsageCounter, **more: Any) -> dict[str, Any]:
        """Returns a message that has just begun, with ``more`` in place of fields."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_object(usage),
            **more,
        }

    def stop(self, event: Finished) -> dict[str, Any]:
        """Returns why an answer has ended."""
        stop = event.stop if isinstance(event.stop, str) else None
        if event.reason == "tool_calls":
            return {"stop_reason": "tool_use", "stop_sequence": None}
        if event.reason == "stop":
            reason = "end_turn" if stop is None else "stop_sequence"
            return {"stop_reason": reason, "stop_sequence": stop}
        is_full = event.completion_tokens < self.max_tokens
        reason = "model_context_window_exceeded" if is_full else "max_tokens"
        return {"stop_reason": reason, "stop_sequence": None}


def usage_object(usage: UsageCounter) -> dict[str, int]:
    """Returns the usage so far.  The prompt has the sum of the first three."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        # Caches are written without being asked to.
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


async def whole_message(
    events: AsyncIterable[Event], form: MessageForm, usage: UsageCounter
) -> dict[str, Any]:
    """Returns the answer to a request.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.
    """
    # Calls come before text.
    calls, text = ToolCallCollector(), []
    stop: Mapping[str, Any] = {}
    async for event in events:
        usage.add(event)
        if isinstance(event, Piece):
            text.append(event.text)
        elif isinstance(event, ToolCallEvent):
            calls.add(event)
        elif isinstance(event, Finished):
            stop = form.stop(event)
    content = [
        _tool_use(call.id, call.name, arguments_object(call.arguments))
        for call in calls.calls
    ]
    if whole := "".join(text):
        content.append({"type": "text", "text": whole})
    return form.message(usage, content=content, **stop)


async def message_events(
    events: AsyncGenerator[Event, None], form: MessageForm, usage: UsageCounter
) -> AsyncGenerator[bytes, None]:
    """Yields the server-sent events of an answer.

    Args:
        events: The engine's events.
        form: What the answer contains.
        usage: Counts the tokens.
    """
    async for ping in _prompt_read(events, usage):
        yield ping
    # The message begins with the usage of the prompt.
    writer = _BlockWriter(form.early_tools)
    yield _event("message_start", message=form.message(usage))
    async for event in events:
        usage.add(event)
        if isinstance(event, Piece):
            part = writer.text(event.text)
        elif isinstance(event, ToolCallEvent):
            part = writer.call(event)
        elif isinstance(event, Finished):
            part = writer.end()
            delta, total = form.stop(event), usage_object(usage)
            part += _event("message_delta", delta=delta, usage=total)
        else:
            continue
        if part or (part := writer.ping()):
            yield part
    yield _event("message_stop")


async def _prompt_read(
    events: AsyncGenerator[Event, None], usage: UsageCounter
) -> AsyncGenerator[bytes, None]:
    """Yields pings until the model has read the prompt."""
    is_read = False
    while not is_read:
        pending = asyncio.ensure_future(anext(events))
        try:
            while not (await asyncio.wait((pending,), timeout=PING_SECONDS))[0]:
                yield _PING
            event = pending.result()
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        usage.add(event)
        is_read = isinstance(event, PromptRead)


class _BlockWriter:
    """Writes the events of an answer's blocks.

    A call is written when it is complete, since what has been written can't be taken
    back, if it turns out to be text.

    Args:
        early_tools: Tools whose calls are written as they are generated; None is all.
    """

    def __init__(self, early_tools: frozenset[str] | None) -> None:
        self._early_tools = early_tools
        self._index = -1
        self._open = ""
        self._held: list[bytes] | None = None
        self._written_at = time.monotonic()

    def text(self, text: str) -> bytes:
        """Returns the events of a piece of text."""
        if not text:
            return b""
        start = b""
        if self._open != "text":
            start = self._close() + self._start("text", {"type": "text", "text": ""})
        return self._passed(
            start
            + b'event: content_block_delta\ndata: {"type":"content_block_delta",'
            + f'"index":{self._index},"delta":{{"type":"text_delta",'
            f'"text":{compact(text)}}}}}\n\n'.encode()
        )

    def call(self, event: ToolCallEvent) -> bytes:
        """Returns the events of an event of a call, or none while it is held back."""
        if isinstance(event, ToolCallStarted):
            before = self._close()
            is_early = self._early_tools is None or event.name in self._early_tools
            self._held = None if is_early else []
            start = self._start("tool_use", _tool_use(event.id, event.name, {}))
            return self._passed(before) + self._passed_call(start)
        if isinstance(event, ToolCallArguments):
            delta = {"type": "input_json_delta", "partial_json": event.text}
            return self._passed_call(
                _event("content_block_delta", index=self._index, delta=delta)
            )
        if isinstance(event, ToolCallWithdrawn) and self._held is not None:
            self._held, self._open = None, ""
            self._index -= 1
            return b""
        assert isinstance(event, (ToolCallEnded, ToolCallWithdrawn))
        return self.end()

    def end(self) -> bytes:
        """Returns what is held back, and the end of the last block."""
        held, self._held = self._held or (), None
        return self._passed(b"".join(held) + self._close())

    def ping(self) -> bytes:
        """Returns a ping if nothing has been written for long."""
        is_silent = time.monotonic() - self._written_at > PING_SECONDS
        return self._passed(_PING) if is_silent else b""

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        self._index += 1
        self._open = kind
        return _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", index=self._index)

    def _passed_call(self, part: bytes) -> bytes:
        if self._held is None:
            return self._passed(part)
        self._held.append(part)
        return b""

    def _passed(self, part: bytes) -> bytes:
        if part:
            self._written_at = time.monotonic()
        return part


def _tool_use(identity: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": f"toolu_{identity.removeprefix('call_')}",
        "name": name,
        "input": given,
    }


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {compact({'type': kind, **fields})}\n\n".encode()


_PING: Final = _event("ping")
