"""How a worker is reached, and how it ends; no process runs."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

from mllama.server.supervisor.worker_board import Announcement
from mllama.server.supervisor.worker_process import WorkerProcess, reaped


class DyingProcess:
    """A process that has closed its files, and that the system still frees.

    Attributes:
        looks: How often its exit code isn't known yet.
    """

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def exitcode(self) -> int | None:
        self.looks -= 1
        return None if self.looks >= 0 else -9


def test_the_event_loop_goes_on_until_the_system_has_freed_a_worker() -> None:
    async def main() -> None:
        process: Any = DyingProcess(5)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.ensure_future(count_turns())
        assert await reaped(process, 60) == -9
        assert turns > 5
        counting.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_worker_that_is_never_freed_is_waited_for_as_long_as_is_said() -> None:
    process: Any = DyingProcess(10**9)
    started = time.monotonic()
    assert asyncio.run(reaped(process, 0.05)) is None
    assert time.monotonic() - started >= 0.05


class UnreachableWorker(WorkerProcess):
    """A worker that has loaded, and whose queue can't be connected to."""

    def __init__(self) -> None:
        async def fail(timeout: float | None) -> None:
            raise RuntimeError("the queue did not connect")

        @asynccontextmanager
        async def proxy() -> Any:
            yield SimpleNamespace(wait_until_connected=fail)

        parts: Any = SimpleNamespace
        self._plan = parts(settings=parts(mw_timeout_s=None))
        self._board = parts(read=lambda: Announcement(rounds=1))
        self._queues = parts(model_worker_proxy=proxy)
        self._contexts = AsyncExitStack()
        self._ended = asyncio.Event()
        self._hang = None

    def _kill(self, reason: str) -> None:
        self._hang = reason
        self._ended.set()


def test_a_worker_that_cannot_be_reached_is_no_success() -> None:
    async def main() -> None:
        worker = UnreachableWorker()
        assert await worker.connect() is None
        assert worker.description() == (
            "can't be reached (the queue did not connect), and was killed"
        )

    asyncio.run(asyncio.wait_for(main(), 60))
