"""Long work of the event loop itself, done step by step while other requests go on.

A thread wouldn't help: parsers and writers of JSON hold Python's lock until they are
done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

Value = TypeVar("Value")

_LONGEST_PAUSE: Final = 0.02
"""Seconds between two steps in which the event loop does other work."""

_LOCKS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = (
    WeakKeyDictionary()
)
"""Of each event loop, held by whoever does a step."""


async def in_turns(steps: Generator[None, None, Value]) -> Value:
    """Returns what a generator returns.

    The first step is done at once.  Of others there is one at a time, whoever's it is,
    and a pause after each, in which the event loop does other work for as long as the
    step took.
    """
    try:
        next(steps)
        lock = _LOCKS.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        while True:
            async with lock:
                started = time.perf_counter()
                next(steps)
                pause = min(time.perf_counter() - started, _LONGEST_PAUSE)
                await asyncio.sleep(pause)
    except StopIteration as end:
        value: Value = end.value
        return value
