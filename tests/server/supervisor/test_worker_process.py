"""How a worker is started and reached, and how it ends; no model is loaded."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mllama.server.supervisor import worker_process as module
from mllama.server.supervisor.process_end import reaped, signal_name
from mllama.server.supervisor.process_tree import TreeActivity
from mllama.server.supervisor.worker_board import (
    Announcement,
    WorkerBoard,
    WorkKind,
)
from mllama.server.supervisor.worker_process import WorkerProcess
from tests.server.standby import ReadsLate, stand_by


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


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (40, "signal 40")]
)
def test_each_signal_can_be_named(number: int, name: str) -> None:
    assert signal_name(number) == name


class UnreachableWorker(WorkerProcess):
    """A worker that has loaded, and whose queue can't be connected to."""

    def __init__(self) -> None:
        async def start() -> None:
            pass

        async def fail(timeout: float | None) -> None:
            raise RuntimeError("the queue did not connect")

        @asynccontextmanager
        async def proxy() -> Any:
            yield SimpleNamespace(wait_until_connected=fail)

        parts: Any = SimpleNamespace
        self._start = start  # type: ignore[method-assign]
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


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A plan with more than a pipe holds, for processes that never run it."""
    parts: Any = SimpleNamespace
    monkeypatch.setattr(module, "new_worker_queues", lambda *_: parts())
    monkeypatch.setattr(module, "prepare_worker_environment", lambda _: None)
    monkeypatch.setattr(module, "close_queues", lambda *_: None)
    return parts(
        factory=bytes(1 << 20),
        config=parts(),
        settings=parts(
            mw_timeout_s=None,
            max_queue_size=1,
            mw_health_fail_s=60,
            use_heartbeat=False,
        ),
        log_style=None,
        metric_client=parts(cross_process_factory=lambda _: None),
        endpoint="",
        memory_plan=None,
        is_on_host=True,
    )


def test_a_process_that_is_stopped_before_it_reads_its_task_is_killed(
    plan: Any, tmp_path: Path
) -> None:
    async def main(board: WorkerBoard) -> None:
        os.kill(stand_by(ReadsLate(tmp_path / "never")), signal.SIGSTOP)
        worker = WorkerProcess(plan, board)
        connecting = asyncio.ensure_future(worker.connect())
        looks = 0
        while not connecting.done():
            await asyncio.sleep(0.1)
            looks += 1
        assert await connecting is None
        # The event loop went on meanwhile.
        assert looks > 3
        await worker.close()
        assert worker.description() == "was stopped by a signal, and was killed"

    with WorkerBoard.temporary() as board:
        asyncio.run(asyncio.wait_for(main(board), 100))


class StillAtThirdLook:
    """In place of the watch of loading."""

    def __init__(self) -> None:
        self._looks = 0

    def is_still(self, at: float, activity: TreeActivity | None) -> bool:
        self._looks += 1
        return self._looks == 3


def test_a_worker_that_does_nothing_while_it_loads_is_killed(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "LoadingWatch", StillAtThirdLook)

    async def main(board: WorkerBoard) -> None:
        stand_by(ReadsLate(tmp_path / "never"))
        worker = WorkerProcess(plan, board)
        board.announce(WorkKind.LOADING)
        assert await worker.connect() is None
        await worker.close()
        assert worker.description() == (
            "hangs: loading the model has stopped computing, and was killed"
        )

    with WorkerBoard.temporary() as board:
        asyncio.run(asyncio.wait_for(main(board), 100))


def test_a_worker_that_can_not_be_started_leaves_nothing_to_end(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError("no more processes")

    async def main(board: WorkerBoard) -> None:
        monkeypatch.setattr(util, "spawnv_passfds", fail)
        worker = WorkerProcess(plan, board)
        with pytest.raises(OSError, match="no more processes"):
            await worker.connect()
        await worker.close()

    with WorkerBoard.temporary() as board:
        asyncio.run(asyncio.wait_for(main(board), 60))
