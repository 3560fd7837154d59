"""Threads that clients share."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from functools import partial

import pytest

from mllama.errors import EngineOverloadedError, EngineUnavailableError
from mllama.utils.fair_threads import FairThreads, current_waiter, waiting_as
from tests.utils.threads import no_threads


class Tasks:
    """Tasks that note their order, and wait until they may end."""

    def __init__(self, threads: int) -> None:
        self.threads = FairThreads(threads, "test")
        self.begun: list[str] = []
        self._running = [threading.Event() for _ in range(threads)]
        self._may_end = threading.Event()

    def occupy(self, client: str) -> list[Future[None]]:
        """Gives each thread a task of a client, which waits."""

        def wait(running: threading.Event) -> None:
            running.set()
            assert self._may_end.wait(60)

        with waiting_as(client):
            tasks = [self.threads.submit(partial(wait, each)) for each in self._running]
        for each in self._running:
            assert each.wait(60)
        return tasks

    def submit(self, client: str, max_seconds: float | None = None) -> Future[None]:
        with waiting_as(client, max_seconds):
            return self.threads.submit(lambda: self.begun.append(client))

    def end(self) -> None:
        self._may_end.set()


def test_a_client_that_has_nothing_goes_before_many_of_another() -> None:
    tasks = Tasks(1)
    tasks.occupy("A")
    waiting = [tasks.submit("A") for _ in range(64)]
    waiting.append(tasks.submit("B"))
    tasks.end()
    for each in waiting:
        each.result(60)
    assert tasks.begun == ["B", *["A"] * 64]


def test_clients_take_turns() -> None:
    tasks = Tasks(1)
    tasks.occupy("C")
    waiting = [tasks.submit(client) for client in "AAABBB"]
    tasks.end()
    for each in waiting:
        each.result(60)
    assert tasks.begun == list("ABABAB")


def test_what_is_cancelled_gives_its_place_up() -> None:
    tasks = Tasks(2)
    tasks.occupy("A")
    given_up = [tasks.submit("A") for _ in range(5)]
    last = tasks.submit("B")
    for each in given_up:
        assert each.cancel()
    assert tasks.threads.waiting == 1
    tasks.end()
    last.result(60)
    assert tasks.begun == ["B"]
    with pytest.raises(CancelledError):
        given_up[0].result()
    # The threads have work as before.
    tasks.submit("A").result(60)


def test_a_task_of_an_event_loop_that_is_cancelled_gives_its_place_up() -> None:
    async def main() -> None:
        tasks = Tasks(1)
        tasks.occupy("A")
        waiting = asyncio.ensure_future(asyncio.wrap_future(tasks.submit("B")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert tasks.threads.waiting == 0
        tasks.end()

    asyncio.run(main())


def test_a_wait_has_a_limit_in_time() -> None:
    async def main() -> None:
        tasks = Tasks(1)
        occupied = tasks.occupy("A")
        with pytest.raises(EngineOverloadedError, match=r"for 0\.01 s") as raised:
            await asyncio.wrap_future(tasks.submit("B", 0.01))
        assert raised.value.retry_after == 10
        assert tasks.threads.waiting == 0
        assert not occupied[0].done()
        tasks.end()
        await asyncio.wrap_future(tasks.submit("B", 60))

    asyncio.run(main())


def test_a_task_that_runs_has_no_limit() -> None:
    async def main() -> None:
        threads = FairThreads(1, "test")
        begun, may_end = threading.Event(), threading.Event()

        def work() -> bool:
            begun.set()
            return may_end.wait(60)

        with waiting_as("A", 0.01):
            task = asyncio.wrap_future(threads.submit(work))
        # The limit is the loop's, which goes on when the task runs.
        assert begun.wait(60)
        await asyncio.sleep(0.1)
        may_end.set()
        assert await task

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("wrong"), SystemExit(1)])
def test_errors_are_the_futures(error: BaseException) -> None:
    def fail() -> None:
        raise error

    threads = FairThreads(1, "test")
    assert threads.submit(fail).exception(60) is error
    assert threads.submit(lambda: 1).result(60) == 1


def test_threads_are_few_and_begin_as_they_are_told() -> None:
    begun: list[str] = []
    barrier = threading.Barrier(3)
    threads = FairThreads(
        3, "few", lambda: begun.append(threading.current_thread().name)
    )
    waiting = [threads.submit(partial(barrier.wait, 60)) for _ in range(3)]
    assert {each.result() for each in waiting} == {0, 1, 2}
    assert len(begun) == 3
    assert all(each.startswith("few") for each in begun)


def test_tasks_that_are_started_work_for_the_same_client() -> None:
    async def client() -> object:
        return current_waiter().client

    async def main() -> None:
        assert current_waiter().client is None
        with waiting_as("A", 1):
            task = asyncio.ensure_future(client())
        assert current_waiter().client is None
        assert await task == "A"

    asyncio.run(main())


def test_what_has_not_begun_is_given_up_at_the_end() -> None:
    tasks = Tasks(1)
    (running,) = tasks.occupy("A")
    waiting = tasks.submit("B")
    tasks.threads.shutdown()
    with pytest.raises(CancelledError):
        waiting.result(60)
    tasks.end()
    running.result(60)
    assert tasks.begun == []


def test_a_task_for_which_the_system_has_no_thread_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = Tasks(1)
    with no_threads(monkeypatch), pytest.raises(EngineUnavailableError, match="again"):
        tasks.submit("A")
    assert tasks.threads.waiting == 0
    tasks.end()
    tasks.submit("B").result(60)
    assert tasks.begun == ["B"]


def test_a_task_that_a_thread_has_taken_needs_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = FairThreads(2, "test")
    threads.submit(lambda: None).result(60)
    # The thread says that it is idle a moment after the result.
    assert threads._threads._idle_semaphore.acquire(timeout=60)
    threads._threads._idle_semaphore.release()
    with no_threads(monkeypatch):
        assert threads.submit(lambda: 1).result(60) == 1
