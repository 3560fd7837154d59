"""Event loops for callers that may have one already."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_coroutine(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine in an event loop of its own, and returns its result.

    In a notebook, the calling thread has a loop that runs.  The coroutine then runs in
    another thread.  Ctrl-C cancels it in either.

    Args:
        coroutine: The coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Result]]] = Future()

    async def run() -> Result:
        task = asyncio.ensure_future(coroutine)
        started.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1, thread_name_prefix="mllama-loop") as thread:
        result = thread.submit(asyncio.run, run())
        try:
            return result.result()
        except KeyboardInterrupt:
            loop, task = started.result()
            if not result.done():
                loop.call_soon_threadsafe(task.cancel)
            raise
