"""Event loops for callers that may have one already, and tasks beside a block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine
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
    is_interrupted = threading.Event()

    async def run() -> Result:
        task = asyncio.ensure_future(coroutine)
        started.set_result((asyncio.get_running_loop(), task))
        if is_interrupted.is_set():
            task.cancel()
        return await task

    with ThreadPoolExecutor(1, thread_name_prefix="mllama-loop") as thread:
        try:
            return thread.submit(asyncio.run, run()).result()
        except KeyboardInterrupt:
            # It may come before the coroutine has begun, and after its end.
            is_interrupted.set()
            if started.done():
                loop, task = started.result()
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(task.cancel)
            raise


@contextlib.asynccontextmanager
async def background_task(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs a coroutine beside an ``async with`` block, and cancels it at the end.

    Args:
        coroutine: The coroutine.
    """
    task = asyncio.ensure_future(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
