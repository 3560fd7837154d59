"""Cancels what clients that have gone away asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from mllama.max_compat.server import ClientDisconnected

Result = TypeVar("Result")


async def unless_disconnected(
    request: Request, work: Coroutine[Any, Any, Result]
) -> Result:
    """Returns the result of a coroutine, which is cancelled if the client goes away.

    Args:
        request: The request, whose body has been read.
        work: The coroutine.

    Raises:
        ClientDisconnected: If the client went away.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnected
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
        # An error of the task holds this frame, and would hold itself by it.
        del task, watch


async def _disconnected(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
