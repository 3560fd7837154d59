"""An answer that is sent while it is generated."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

Item = TypeVar("Item")

EVENT_STREAM: Final = "text/event-stream"
"""The content type of server-sent events."""

_HEADERS: Final = {
    "Cache-Control": "no-cache",
    # nginx would collect events before it passes them on.
    "X-Accel-Buffering": "no",
}


class EventStream(StreamingResponse):
    """A response of server-sent events, or of lines of JSON.

    Args:
        events: Yields events as bytes.
        end: Frees what the events need.  It is called at any end, also if the client
            goes away before the first event.
        media_type: The content type.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        end: Callable[[], Awaitable[None]],
        *,
        media_type: str = EVENT_STREAM,
    ) -> None:
        super().__init__(events, media_type=media_type, headers=_HEADERS)
        self._events = events
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events until they end or the client goes away."""
        try:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)
        finally:
            await self._end()


async def started(
    items: AsyncGenerator[Item, None],
    is_ready: Callable[[list[Item]], bool] = lambda items: True,
) -> AsyncGenerator[Item, None]:
    """Waits for the first items, and returns a generator of all.

    An error before them is raised here, where a response can still have its status.

    Args:
        items: The items.
        is_ready: Returns True once no more have to be waited for.
    """
    first: list[Item] = []
    try:
        async for item in items:
            first.append(item)
            if is_ready(first):
                break
    except BaseException:
        await items.aclose()
        raise
    return _chained(first, items)


async def _chained(
    first: list[Item], items: AsyncGenerator[Item, None]
) -> AsyncGenerator[Item, None]:
    async with aclosing(items):
        for item in first:
            yield item
        async for item in items:
            yield item
