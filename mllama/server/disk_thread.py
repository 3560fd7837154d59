"""A thread for what may wait for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class DiskThread:
    """Does what may wait for the disk in a thread, one thing after another.

    So the event loop never waits for the disk, nothing overtakes what was asked for
    before, and a look at files with what follows from it is one step.  Whoever asks
    waits for the end of it before asking again: what is queued is one piece of work of
    each request.
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
