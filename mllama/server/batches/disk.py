"""The disk that files and batches are on: it may be slow, full, or fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from starlette.exceptions import HTTPException

Result = TypeVar("Result")


class DiskThread:
    """Does what may wait for the disk in a thread, one thing after another.

    So the event loop never waits for the disk, nothing overtakes what was asked for
    before, and a look at the stores with what follows from it is one step.  Whoever
    asks waits for the end of it before asking again: what is queued is one piece of
    work of each request.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="mllama-disk")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Returns the result of work, which is done in any case.

        Whoever is cancelled meanwhile ends after it, so that what it cleans up is
        complete.

        Args:
            work: Reads or writes files.  What it raises is raised here.
        """
        done = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            await asyncio.wait([done])
            # Otherwise asyncio would tell of an error that nobody has looked at.
            done.exception()
            raise
        return done.result()

    def close(self) -> None:
        """Waits for what has been asked for, and ends the thread."""
        self._executor.shutdown()


@contextmanager
def disk_errors(name: str) -> Iterator[None]:
    """Makes an error of the disk the answer to the request.

    Args:
        name: What can't be kept.

    Raises:
        HTTPException: If the disk is full or read-only, or fails.
    """
    try:
        yield
    except OSError as error:
        raise HTTPException(
            507, f"The {name} can't be kept: {error.strerror or error}."
        ) from error
