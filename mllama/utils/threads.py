"""Work in threads, on a system that may have no more of them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

from mllama.errors import EngineUnavailableError

Result = TypeVar("Result")


async def in_thread(work: Callable[[], Result]) -> Result:
    """Returns what work returns that one of asyncio's threads does.

    Args:
        work: The work.

    Raises:
        EngineUnavailableError: If the system has no thread for it.
    """
    # No name for the future here: an error of the work would hold itself by this frame.
    return await _started(work)


def _started(work: Callable[[], Result]) -> asyncio.Future[Result]:
    given = [work]
    context = contextvars.copy_context()
    try:
        return asyncio.get_running_loop().run_in_executor(
            None, lambda: context.run(given.pop())
        )
    except RuntimeError as error:
        # The executor has queued it all the same.
        given.clear()
        raise no_thread() from error


def no_thread() -> EngineUnavailableError:
    """Returns the error of a request for which the system has no thread."""
    return EngineUnavailableError(
        "the system has no more threads at the moment; try again"
    )
