"""Starts a model worker, and another one whenever it dies."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final

from mllama.errors import EngineUnavailableError
from mllama.server.observability.metrics import METRICS
from mllama.server.supervisor.backoff import Backoff
from mllama.server.supervisor.restart_options import RestartOptions
from mllama.server.supervisor.worker_board import WorkerBoard
from mllama.server.supervisor.worker_link import WorkerLink
from mllama.server.supervisor.worker_process import WorkerPlan, WorkerProcess
from mllama.server.worker_prespawn import end_prespawned_worker, prespawn_worker

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("mllama")

_STANDBY_DELAY_SECONDS: Final = 2.0
"""Pause before the next worker's process is started ahead, which takes a core for
seconds: the first requests come first."""

_LOADING_SECONDS: Final = 5.0
"""How long a worker takes to load, for a client that has to wait, until one has."""


class WorkerStartError(Exception):
    """The first worker has died before it took requests.

    Args:
        description: How, as the end of a sentence.
    """


class WorkerSupervisor:
    """A worker that is replaced when it dies.

    Enter it as a context manager, which returns once the first worker takes requests.

    Args:
        plan: What each worker is started with.
        board: The file in which workers announce what they do.
        ended: Called when a worker has ended, before another one starts.
        gave_up: Called when a worker isn't replaced any more.
        options: How workers are replaced.
        with_torch: Whether remote code, which may need torch, runs in a worker.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        board: WorkerBoard,
        *,
        ended: Callable[[], None],
        gave_up: Callable[[], None],
        options: RestartOptions | None = None,
        with_torch: bool = False,
    ) -> None:
        self._plan = plan
        self._board = board
        self._note_ended = ended
        self._note_gave_up = gave_up
        self._options = options or RestartOptions()
        self._with_torch = with_torch
        self._backoff = Backoff()
        self._worker: WorkerProcess | None = None
        self._link: WorkerLink | None = None
        self._task: asyncio.Task[None] | None = None
        self._died_at: float | None = None
        # When a worker is expected to take requests, by the monotonic clock.
        self._expected_at = 0.0
        self._loading_seconds = _LOADING_SECONDS

    async def __aenter__(self) -> Self:
        """Starts the first worker.

        Raises:
            WorkerStartError: If it dies before it takes requests.
        """
        try:
            worker = await self._start()
        except BaseException:
            await self._close_worker()
            raise
        if self._link is None:
            await self._close_worker()
            raise WorkerStartError(worker.description())
        self._task = asyncio.ensure_future(self._keep_running())
        self._task.add_done_callback(self._end_server_after_error)
        return self

    def _end_server_after_error(self, task: asyncio.Task[None]) -> None:
        """Ends the server if nothing would replace its workers any more."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "workers can't be replaced any more: %s", error, exc_info=error
            )
            self._note_gave_up()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the worker."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._close_worker()
        end_prespawned_worker()

    async def _close_worker(self) -> None:
        worker, self._worker = self._worker, None
        if self._link is not None:
            self._link.fail(EngineUnavailableError("the server is shutting down"))
            self._link = None
        if worker is not None:
            await worker.close()

    @property
    def is_ready(self) -> bool:
        """Returns True if a worker takes requests."""
        return self._link is not None

    def unavailable(self) -> EngineUnavailableError:
        """Returns the error of requests for which there is no worker."""
        wait = max(1, math.ceil(self._expected_at - time.monotonic()))
        return EngineUnavailableError(
            "the model's process has died; another one is being started, so try again "
            f"in {wait} s",
            wait,
        )

    def current(self) -> WorkerLink:
        """Returns the way to the worker.

        Raises:
            EngineUnavailableError: If there is none that takes requests.
        """
        if self._link is None:
            raise self.unavailable()
        return self._link

    async def _start(self) -> WorkerProcess:
        """Starts a worker, and waits until it takes requests or has died."""
        started = time.monotonic()
        self._expected_at = started + self._loading_seconds
        worker = self._worker = WorkerProcess(self._plan, self._board)
        self._link = await worker.connect()
        if self._link is not None:
            self._loading_seconds = time.monotonic() - started
        return worker

    async def _keep_running(self) -> None:
        """Replaces workers that die, until it is cancelled or gives up."""
        problem = ""
        while True:
            if self._link is not None and self._worker is not None:
                await self._serve(self._worker)
            delay = await self._next_delay(problem)
            if delay is None:
                return
            await asyncio.sleep(delay)
            METRICS.worker_restarts.inc()
            problem = ""
            try:
                await self._start()
            except Exception as error:
                # As when there are no more processes or descriptors to be had.
                problem = f"can't be started: {error}"
            if self._link is not None and self._died_at is not None:
                logger.info(
                    "the model worker takes requests again, %.1f s after the last one "
                    "had died",
                    time.monotonic() - self._died_at,
                )
                self._died_at = None

    async def _next_delay(self, problem: str) -> float | None:
        """Buries a worker, whatever happens: there would be no other one.

        Args:
            problem: See :meth:`_bury`.

        Returns:
            The seconds to wait before the next one; None if there is no next one.
        """
        died_at = time.monotonic()
        if self._died_at is None:
            self._died_at = died_at
        loaded_at = None if self._worker is None else self._worker.loaded_at
        served = 0.0 if loaded_at is None else died_at - loaded_at
        delay = self._backoff.next_delay(served)
        self._expected_at = died_at + delay + self._loading_seconds
        try:
            await self._bury(problem, served, delay)
        except Exception as error:
            logger.error(
                "the end of the model worker can't be dealt with: %s; %s",
                error,
                self._next_try(delay),
                exc_info=error,
            )
        if self._gives_up:
            self._note_gave_up()
            return None
        return delay

    def _next_try(self, delay: float) -> str:
        """Returns when the next worker starts, as the end of a message."""
        if self._gives_up:
            return "there is no further try (--max-worker-restarts)"
        when = f"in {delay:.0f} s" if delay else "now"
        return f"the next one starts {when}"

    @property
    def _gives_up(self) -> bool:
        most = self._options.most_restarts
        return most is not None and self._backoff.failures > most

    async def _serve(self, worker: WorkerProcess) -> None:
        """Waits until a worker has ended, and has the next one's process started."""
        standby = asyncio.ensure_future(self._prepare_standby())
        try:
            await worker.end()
        finally:
            standby.cancel()

    async def _prepare_standby(self) -> None:
        if not self._options.keeps_standby:
            return
        await asyncio.sleep(_STANDBY_DELAY_SECONDS)
        try:
            prespawn_worker(with_torch=self._with_torch)
        except OSError as error:
            logger.warning("no process can be started ahead: %s", error)

    async def _bury(self, problem: str, served: float, delay: float) -> None:
        """Ends the requests of a worker that has died.

        Args:
            problem: Why there is none, if it could not even be started.
            served: How long it took requests, in seconds.
            delay: The seconds until the next one starts.
        """
        worker, self._worker = self._worker, None
        link, self._link = self._link, None
        requests = 0 if link is None else link.fail(self.unavailable())
        description = problem
        if worker is not None:
            try:
                # At once, so that requests which end now send it nothing.
                worker.close_queues()
                await worker.close()
            except Exception as error:
                # Whatever is left of it, the next one must start.
                logger.error(
                    "the model worker's remains can't be removed: %s",
                    error,
                    exc_info=error,
                )
            description = problem or worker.description()
        self._note_ended()
        logger.error(
            "the model worker has died: it %s, %s, and %d request(s) ended with an "
            "error; %s",
            description,
            f"after serving for {served:.0f} s" if link else "before it took requests",
            requests,
            self._next_try(delay),
        )
