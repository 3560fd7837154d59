"""Sends the answer of a request, whole or as a stream, to a client that may go away."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from mllama.server.disconnect import unless_disconnected
from mllama.server.errors import ErrorForm, with_error_event
from mllama.server.event_stream import EVENT_STREAM, EventStream, started
from mllama.server.json_response import json_response

WholeWriter = Callable[[AsyncGenerator[Any, None]], Coroutine[Any, Any, dict[str, Any]]]
"""Returns the JSON of a whole answer."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class AnswerWriters:
    """How events become an answer.

    Attributes:
        whole: Returns the JSON of a whole answer.
        chunks: Yields the parts of a stream.
        errors: How a stream says what ended it.
        media_type: The content type of a stream.
        is_ready: Returns True once the first events say that the request is valid.
    """

    whole: WholeWriter
    chunks: Callable[[AsyncGenerator[Any, None]], AsyncGenerator[bytes, None]]
    errors: ErrorForm
    media_type: str = EVENT_STREAM
    is_ready: Callable[[list[Any]], bool] = lambda events: True


async def answer(
    request: Request,
    events: Coroutine[Any, Any, AsyncGenerator[Any, None]],
    writers: AnswerWriters,
    *,
    as_stream: bool,
) -> Response:
    """Returns the response to a request.

    Args:
        request: The request, whose body has been read.
        events: Starts the engine's events.
        writers: Write the answer.
        as_stream: Whether the answer is a stream.
    """
    if not as_stream:
        return await whole_response(request, events, writers.whole)
    source = await unless_disconnected(request, events)
    ready = await unless_disconnected(request, started(source, writers.is_ready))

    async def end() -> None:
        await ready.aclose()
        await source.aclose()

    parts = with_error_event(writers.chunks(ready), writers.errors)
    return EventStream(parts, end, media_type=writers.media_type)


async def whole_response(
    request: Request,
    events: Coroutine[Any, Any, AsyncGenerator[Any, None]],
    whole: WholeWriter,
) -> Response:
    """Returns the response to a request whose answer is no stream.

    Args:
        request: The request, whose body has been read.
        events: Starts the engine's events.
        whole: Returns the JSON of the answer.
    """
    source = await unless_disconnected(request, events)
    async with aclosing(source):
        content = await unless_disconnected(request, whole(source))
        return await json_response(content)
