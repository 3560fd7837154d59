"""Workers that die are replaced: their deaths are made up, and no process runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mllama.errors import EngineUnavailableError, MllamaError
from mllama.server.observability.metrics import REGISTRY
from mllama.server.supervisor import supervisor as module
from mllama.server.supervisor.restart_options import RestartOptions
from mllama.server.supervisor.supervisor import WorkerStartError, WorkerSupervisor
from mllama.server.supervisor.worker_link import WorkerLink
from tests.server.stand_in_worker import StandInWorker


class FakeWorker:
    """In place of ``WorkerProcess``: takes requests, unless it dies at once.

    Attributes:
        all: Those that were started, in order.
        fates: Of the next ones: True takes requests, False dies at once, an exception
            can't be started.
    """

    all: list[FakeWorker]
    fates: list[bool | Exception]

    def __init__(self, plan: Any, board: Any) -> None:
        fate = self.fates.pop(0) if self.fates else True
        if isinstance(fate, Exception):
            raise fate
        self.loads = fate
        self.loaded_at: float | None = None
        self.proxy = StandInWorker()
        self.dead = asyncio.Event()
        self.is_closed = False
        self.close_error: Exception | None = None
        self.all.append(self)

    async def connect(self) -> WorkerLink | None:
        await asyncio.sleep(0)
        if not self.loads:
            return None
        self.loaded_at = time.monotonic()
        return self.proxy.link

    async def end(self) -> None:
        await self.dead.wait()

    def description(self) -> str:
        assert self.is_closed
        return "was killed by SIGSEGV"

    def close_queues(self) -> None:
        pass

    async def close(self) -> None:
        self.is_closed = True
        error, self.close_error = self.close_error, None
        if error is not None:
            raise error


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWorker]:
    monkeypatch.setattr(FakeWorker, "all", [], raising=False)
    monkeypatch.setattr(FakeWorker, "fates", [], raising=False)
    monkeypatch.setattr(module, "WorkerProcess", FakeWorker)
    monkeypatch.setattr(module, "prespawn_worker", lambda **_: None)
    # A second is a hundredth of one.
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(seconds / 100))
    return FakeWorker.all


def worker_restarts() -> int:
    return int(REGISTRY.get_sample_value("mllama_worker_restarts_total") or 0)


class Events:
    """What the supervisor reports."""

    def __init__(self) -> None:
        self.ended = 0
        self.has_given_up = asyncio.Event()
        self._restarts_before = worker_restarts()

    @property
    def restarts(self) -> int:
        """Restarts that ``/metrics`` counts."""
        return worker_restarts() - self._restarts_before

    def end(self) -> None:
        self.ended += 1


def supervised(
    test: Callable[[WorkerSupervisor, Events], Awaitable[None]], **options: Any
) -> None:
    async def main() -> None:
        events = Events()
        unused: Any = None
        supervisor = WorkerSupervisor(
            unused,
            unused,
            ended=events.end,
            gave_up=events.has_given_up.set,
            options=RestartOptions(**options),
        )
        async with supervisor:
            await asyncio.wait_for(test(supervisor, events), 20)
        assert all(worker.is_closed for worker in FakeWorker.all)

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0)


def test_a_worker_that_dies_is_replaced(
    workers: list[FakeWorker], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        link = supervisor.current()
        assert supervisor.is_ready
        workers[0].dead.set()
        await until(lambda: len(workers) == 2 and supervisor.is_ready)
        assert supervisor.current() is not link
        with pytest.raises(EngineUnavailableError, match="process has died"):
            link.check_alive()
        assert (events.ended, events.restarts) == (1, 1)
        assert workers[0].is_closed

    with caplog.at_level(logging.INFO, "mllama"):
        supervised(test)
    died, again = caplog.messages
    assert died == (
        "the model worker has died: it was killed by SIGSEGV, after serving for 0 s, "
        "and 0 request(s) ended with an error; the next one starts now"
    )
    assert "takes requests again" in again


def test_a_worker_whose_remains_stay_is_replaced_too(
    workers: list[FakeWorker], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        workers[0].close_error = ValueError("a process that is still running")
        workers[0].dead.set()
        await until(lambda: len(workers) == 2 and supervisor.is_ready)
        assert events.ended == 1
        # It goes on after that.
        workers[1].dead.set()
        await until(lambda: len(workers) == 3 and supervisor.is_ready)

    supervised(test)
    assert "remains can't be removed: a process that is still" in caplog.messages[0]


def test_a_worker_whose_end_is_a_riddle_is_replaced_too(
    workers: list[FakeWorker],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> str:
        raise ValueError("40 is not a valid Signals")

    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        monkeypatch.setattr(workers[0], "description", fail)
        workers[0].dead.set()
        await until(lambda: len(workers) == 2 and supervisor.is_ready)
        workers[1].dead.set()
        await until(lambda: len(workers) == 3 and supervisor.is_ready)

    supervised(test)
    assert caplog.messages[0] == (
        "the end of the model worker can't be dealt with: 40 is not a valid Signals; "
        "the next one starts now"
    )


@pytest.mark.parametrize("most", [0, 1, 2])
def test_a_riddle_is_one_of_the_restarts_that_the_user_allows(
    workers: list[FakeWorker], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    FakeWorker.fates = [True, *[False] * 10]

    def fail() -> str:
        raise ValueError("40 is not a valid Signals")

    monkeypatch.setattr(FakeWorker, "description", lambda _: fail())

    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        workers[0].dead.set()
        await events.has_given_up.wait()
        assert events.restarts == most

    supervised(test, most_restarts=most)


def test_a_server_without_a_supervisor_ends(
    workers: list[FakeWorker],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail() -> None:
        raise ValueError("a mistake")

    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        await events.has_given_up.wait()

    monkeypatch.setattr(FakeWorker, "end", lambda _: fail())
    supervised(test)
    assert "workers can't be replaced any more: a mistake" in caplog.text


def test_requests_are_refused_while_there_is_no_worker(
    workers: list[FakeWorker],
) -> None:
    FakeWorker.fates = [True, False, False, True]

    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        workers[0].dead.set()
        await until(lambda: not supervisor.is_ready)
        with pytest.raises(EngineUnavailableError, match="try again in") as caught:
            supervisor.current()
        assert 1 <= caught.value.retry_after <= 10
        await until(lambda: supervisor.is_ready)
        assert len(workers) == 4
        assert events.restarts == 3

    supervised(test)


def test_waits_grow_and_the_log_says_when_the_next_try_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    FakeWorker.fates = [True, False, OSError("no more processes"), True]

    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        FakeWorker.all[0].dead.set()
        await until(lambda: events.restarts == 3 and supervisor.is_ready)

    supervised(test)
    lines = caplog.messages
    assert len(lines) == 3
    assert lines[1].endswith("the next one starts in 1 s")
    assert "can't be started: no more processes" in lines[2]
    assert lines[2].endswith("the next one starts in 2 s")


def test_a_first_worker_that_dies_while_loading_ends_the_server(
    workers: list[FakeWorker],
) -> None:
    FakeWorker.fates = [False]

    async def never(supervisor: WorkerSupervisor, events: Events) -> None:
        raise AssertionError

    with pytest.raises(WorkerStartError, match="was killed by SIGSEGV"):
        supervised(never)
    assert workers[0].is_closed
    assert len(workers) == 1


@pytest.mark.parametrize("most", [0, 2])
def test_it_gives_up_after_as_many_restarts_as_the_user_says(
    workers: list[FakeWorker], most: int, caplog: pytest.LogCaptureFixture
) -> None:
    FakeWorker.fates = [True, *[False] * 10]

    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        workers[0].dead.set()
        await events.has_given_up.wait()
        assert events.restarts == most
        assert not supervisor.is_ready

    supervised(test, most_restarts=most)
    assert "no further try (--max-worker-restarts)" in caplog.messages[-1]


def test_a_negative_number_of_restarts_is_refused() -> None:
    with pytest.raises(MllamaError, match="--max-worker-restarts must be at least 0"):
        RestartOptions(most_restarts=-1)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_process_is_started_ahead_for_the_next_worker(
    monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(
        module, "prespawn_worker", lambda with_torch: started.append(with_torch)
    )

    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        await (until(lambda: bool(started)) if keeps else asyncio.sleep(3))

    supervised(test, keeps_standby=keeps)
    assert started == [False] * keeps


def test_a_process_that_cannot_be_started_ahead_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(with_torch: bool) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(module, "prespawn_worker", fail)

    async def test(supervisor: WorkerSupervisor, events: Events) -> None:
        await until(lambda: bool(caplog.records))
        assert supervisor.is_ready

    supervised(test)
