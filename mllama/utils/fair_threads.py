"""Threads that clients share: whoever has fewest tasks running is served next."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from mllama.errors import EngineOverloadedError
from mllama.utils.fair_queue import FairQueue, Ticket
from mllama.utils.threads import no_thread

Result = TypeVar("Result")

_RETRY_SECONDS: Final = 10


@dataclass(frozen=True)
class Waiter:
    """Who waits for a thread.

    Attributes:
        client: The client; None is of nobody that is known.
        max_seconds: The longest that it waits; None waits for ever.
    """

    client: Hashable = None
    max_seconds: float | None = None


_NOBODY: Final = Waiter()

_current: Final[ContextVar[Waiter]] = ContextVar("waiter", default=_NOBODY)


def current_waiter() -> Waiter:
    """Returns whom the running task, or thread, works for."""
    return _current.get()


@contextmanager
def waiting_as(client: Hashable, max_seconds: float | None = None) -> Iterator[None]:
    """Notes whom the running task, and those that it starts, work for.

    Args:
        client: The client.
        max_seconds: The longest that each task waits for a thread; None waits for ever.
            Tasks must then be submitted from an event loop.
    """
    token = _current.set(Waiter(client, max_seconds))
    try:
        yield
    finally:
        _current.reset(token)


@dataclass(frozen=True)
class _Task(Generic[Result]):
    work: Callable[[], Result]
    future: Future[Result]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.work()
        except BaseException as error:
            self.future.set_exception(error)
            # The error holds this frame, and would hold itself and what it is about
            # until the next garbage collection.
            del self
        else:
            self.future.set_result(result)

    def refuse(self, error: Exception) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class FairThreads:
    """Runs tasks in threads, in an order that no client can change for the others.

    A free thread takes a task of the client that has fewest running, and the tasks of
    one client in the order in which they came.  A task that is cancelled before it
    begins gives its place up.

    Args:
        number: The number of threads.
        name: What their names begin with.
        initializer: Is called in each thread at its start.
    """

    def __init__(
        self,
        number: int,
        name: str,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        self._threads = ThreadPoolExecutor(number, name, initializer)
        self._queue = FairQueue()
        self._tasks: dict[Ticket, _Task[Any]] = {}
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Returns how many tasks wait for a thread."""
        return len(self._tasks)

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Starts a task for the client that :func:`waiting_as` has noted.

        Args:
            work: The task.

        Returns:
            What it returns.  The future raises EngineOverloadedError if the client
            waits for a thread for longer than it may.

        Raises:
            EngineUnavailableError: If the system has no thread for it.
        """
        waiter = current_waiter()
        task = _Task(work, Future())
        with self._lock:
            ticket = self._queue.join(waiter.client, 1)
            self._tasks[ticket] = task
        task.future.add_done_callback(lambda _: self._take(ticket))
        try:
            self._threads.submit(self._run_next)
        except RuntimeError as error:
            # Another thread may have taken it meanwhile.
            if self._take(ticket) is not None:
                raise no_thread() from error
        if waiter.max_seconds is not None and not task.future.done():
            self._end_in_time(ticket, task.future, waiter.max_seconds)
        return task.future

    def shutdown(self) -> None:
        """Gives up what hasn't begun, and doesn't wait for what has."""
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            task.future.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run_next(self) -> None:
        with self._lock:
            ticket = self._queue.first()
            if ticket is None:
                return  # Others have given their places up.
            self._queue.leave(ticket)
            task = self._tasks.pop(ticket)
            self._queue.change_held(ticket.client, 1)
        try:
            task.run()
        finally:
            del task  # As in ``run``, whose frame holds this one.
            with self._lock:
                self._queue.change_held(ticket.client, -1)

    def _take(self, ticket: Ticket) -> _Task[Any] | None:
        """Takes a task out of the queue, and returns it if it was there."""
        with self._lock:
            self._queue.leave(ticket)
            return self._tasks.pop(ticket, None)

    def _end_in_time(self, ticket: Ticket, future: Future[Any], seconds: float) -> None:
        """Refuses a task that hasn't begun in time."""

        def refuse() -> None:
            task = self._take(ticket)
            if task is not None:
                task.refuse(
                    EngineOverloadedError(
                        f"other requests have kept this one waiting for {seconds:g} s; "
                        "try again later",
                        _RETRY_SECONDS,
                    )
                )

        loop = asyncio.get_running_loop()
        alarm = loop.call_later(seconds, refuse)

        def end(_: Future[Any]) -> None:
            # The event loop may have ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(alarm.cancel)

        future.add_done_callback(end)
