"""A response, whole or as a stream of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from mllama.requests.events import Event
from mllama.server.compact_json import compact
from mllama.server.dialects.openai.responses.errors import ResponsesErrors, flat
from mllama.server.dialects.openai.responses.settled_calls import settled_calls
from mllama.server.dialects.openai.responses.writer import ResponseWriter, StreamEvent
from mllama.server.errors import ErrorReport


async def whole_response(
    events: AsyncIterable[Event], writer: ResponseWriter
) -> dict[str, Any]:
    """Returns a response.

    Args:
        events: The engine's events.
        writer: Makes the response.
    """
    async for event in events:
        writer.add(event)
    return writer.response()


async def response_events(
    events: AsyncIterable[Event], writer: ResponseWriter, *, are_calls_certain: bool
) -> AsyncGenerator[bytes, None]:
    """Yields the server-sent events of a response.

    Args:
        events: The engine's events.
        writer: Makes the response.
        are_calls_certain: Whether what begins as a call is one, so that its arguments
            can be sent while they are generated.
    """
    yield b"".join(map(_sent, writer.begin()))
    async for event in events if are_calls_certain else settled_calls(events):
        if added := writer.add(event):
            yield b"".join(map(_sent, added))


class StreamedErrors(ResponsesErrors):
    """Ends a stream by an error.

    Args:
        writer: Has made the response so far.
    """

    def __init__(self, writer: ResponseWriter) -> None:
        self._writer = writer

    def event(self, report: ErrorReport) -> bytes:
        """Returns the event that ends the stream."""
        return _sent(self._writer.fail(flat(report)))


def _sent(event: StreamEvent) -> bytes:
    """Returns a server-sent event, which names its type, as OpenAI's do."""
    return f"event: {event['type']}\ndata: {compact(event)}\n\n".encode()
