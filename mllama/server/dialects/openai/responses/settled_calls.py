"""Keeps calls of functions back until it is certain that they are calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

from mllama.requests.events import (
    Event,
    Finished,
    ToolCallArguments,
    ToolCallEnded,
    ToolCallEvent,
    ToolCallStarted,
    ToolCallWithdrawn,
)


async def settled_calls(events: AsyncIterable[Event]) -> AsyncGenerator[Event, None]:
    """Yields events without calls that are withdrawn.

    A client may run a function as soon as its call is an item, and no event of this API
    takes an item back.

    Args:
        events: The events of one answer.
    """
    held: list[ToolCallEvent] = []
    async for event in events:
        if isinstance(event, (ToolCallStarted, ToolCallArguments)):
            held.append(event)
            continue
        if isinstance(event, ToolCallWithdrawn):
            held.clear()
            continue
        if isinstance(event, (ToolCallEnded, Finished)):
            for each in held:
                yield each
            held.clear()
        yield event
