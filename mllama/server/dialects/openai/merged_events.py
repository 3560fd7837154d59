"""The events of several requests as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from mllama.requests.events import Event

_MOST_WAITING: Final = 32
"""Events that nobody has read, of all requests together."""

Start = Callable[[], AsyncGenerator[Event, None]]
"""Hands a request to the engine and returns its events."""


async def merged(
    starts: Sequence[Start], most: int
) -> AsyncGenerator[tuple[int, Event], None]:
    """Yields the events of all requests as they come, each with its request's number.

    Closing the generator cancels all requests.

    Args:
        starts: Start the requests.
        most: How many run at a time.

    Raises:
        Exception: The first error of a request.  It cancels the others.
    """
    if len(starts) == 1:
        # Without a queue, which would cost time for every token.
        async with aclosing(starts[0]()) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event] | Exception | None]
    # What isn't read waits where it is counted.
    queue = asyncio.Queue(_MOST_WAITING)
    turns = asyncio.Semaphore(most)

    async def run(number: int, start: Start) -> None:
        try:
            async with turns, aclosing(start()) as events:
                async for event in events:
                    await queue.put((number, event))
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [
        asyncio.ensure_future(run(number, start)) for number, start in enumerate(starts)
    ]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                try:
                    raise item
                finally:
                    # It holds this frame, and would hold itself by it.
                    del item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
