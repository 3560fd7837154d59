"""One model worker: its process, its queues, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from mllama.max_compat.server import Settings
from mllama.max_compat.worker import (
    close_queues,
    new_worker_queues,
    prepare_worker_environment,
)
from mllama.server.observability.log_format import LogStyle
from mllama.server.supervisor.hang_detector import HangDetector, Look
from mllama.server.supervisor.loading_watch import LOOK_SECONDS, LoadingWatch
from mllama.server.supervisor.process_end import reaped, signal_name
from mllama.server.supervisor.process_tree import tree_activity
from mllama.server.supervisor.worker_board import WorkerBoard
from mllama.server.supervisor.worker_link import WorkerLink
from mllama.server.supervisor.worker_program import WorkerProgram
from mllama.server.worker_prespawn import PrespawnedProcess
from mllama.utils.process_activity import process_activity

_LOOK_SECONDS: Final = 0.25
_LOADED_LOOK_SECONDS: Final = 0.05
_REAP_SECONDS: Final = 15.0
"""How long the system may take to free what a process held, a GPU's memory above all,
before it reports its end."""

logger = logging.getLogger("mllama")


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What each worker of a server is started with.

    Attributes:
        factory: Builds the pipeline in the worker.
        config: MAX's configuration of the pipeline.
        settings: Settings of the server.
        log_style: How the worker's log looks.
        metric_client: Records MAX's metrics.
        endpoint: What the names of MAX's further endpoints begin with.
        memory_plan: MAX's plan of the worker's memory.
    """

    factory: Callable[[], Any]
    config: Any
    settings: Settings
    log_style: LogStyle
    metric_client: Any
    endpoint: str
    memory_plan: Any

    @property
    def is_on_host(self) -> bool:
        """Returns True if the model runs on the CPU."""
        specs = self.config.model.device_specs
        return all(spec.device_type == "cpu" for spec in specs)


class WorkerProcess:
    """A worker from its start to its end.

    Args:
        plan: What it is started with.
        board: The file in which it announces what it does; no other worker uses it.

    Attributes:
        loaded_at: When it began to take requests, by the monotonic clock; None before.
    """

    def __init__(self, plan: WorkerPlan, board: WorkerBoard) -> None:
        self._plan = plan
        self._board = board
        self._queues = new_worker_queues(plan.config, plan.settings.max_queue_size)
        self._proxy: Any = None
        self._contexts = AsyncExitStack()
        self._ended = asyncio.Event()
        self._hang: str | None = None
        self._is_closed = False
        self._exit_code: int | None = None
        self.loaded_at: float | None = None
        # What may take long at the start: to pickle the task, and to send it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mllama-worker-start")
        board.clear()
        self._process = PrespawnedProcess(
            target=WorkerProgram(plan.log_style),
            args=(
                board,
                plan.factory,
                plan.config,
                plan.settings,
                plan.metric_client.cross_process_factory(plan.settings),
                self._queues,
                plan.endpoint,
                plan.memory_plan,
                time.time(),
            ),
            daemon=True,
            name="Model Worker",
        )
        # A descriptor that can be read as soon as the process has ended.
        self._sentinel: int | None = None
        self._watching: asyncio.Future[Any] | None = None

    @property
    def pid(self) -> int:
        """Returns the id of the process."""
        assert self._process.pid is not None
        return self._process.pid

    async def _start(self) -> None:
        """Starts the process, and has its task sent to it.

        Raises:
            OSError: If the system has no room for it.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._process.pickle_task)
        prepare_worker_environment(self._plan.config)
        # Here, since it ends with the thread that starts it.
        self._process.start()
        self._sentinel = self._process.sentinel
        loop.add_reader(self._sentinel, self._note_end)
        # One that doesn't read is killed, by which the writing ends, too.
        self._watching = asyncio.gather(self._watch(), self._watch_loading())
        self._thread.submit(self._process.task_writer())
        self._thread.shutdown(wait=False)

    def _note_end(self) -> None:
        assert self._sentinel is not None
        asyncio.get_running_loop().remove_reader(self._sentinel)
        self._ended.set()

    async def connect(self) -> WorkerLink | None:
        """Starts the worker, waits until it takes requests, and returns the way to it.

        Returns:
            None if the worker has ended before.

        Raises:
            OSError: If the system has no room for it.
        """
        await self._start()
        limit = self._plan.settings.mw_timeout_s
        end = None if limit is None else time.monotonic() + limit
        while not self._board.read().is_loaded:
            if await self._ends_within(_LOADED_LOOK_SECONDS):
                return None
            if end is not None and time.monotonic() > end:
                self._kill(f"took more than {limit:g} s to load (MAX_SERVE_MW_TIMEOUT)")
                await self._ended.wait()
                return None
        self._proxy = await self._contexts.enter_async_context(
            self._queues.model_worker_proxy()
        )
        connecting = asyncio.ensure_future(self._proxy.wait_until_connected(None))
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait(
                (connecting, ending), return_when=asyncio.FIRST_COMPLETED
            )
            if self._ended.is_set():
                return None
            if (error := connecting.exception()) is not None:
                self._kill(f"can't be reached ({error})")
                await self._ended.wait()
                return None
        finally:
            connecting.cancel()
            ending.cancel()
        self.loaded_at = time.monotonic()
        return WorkerLink(self._proxy)

    async def _ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    async def end(self) -> None:
        """Waits until the process has ended."""
        await self._ended.wait()

    async def _watch(self) -> None:
        """Kills the process if it hangs or is stopped."""
        settings = self._plan.settings
        detector = HangDetector(
            on_host=self._plan.is_on_host,
            longest_step=settings.mw_health_fail_s if settings.use_heartbeat else None,
        )
        progress: tuple[int, int] | None = None
        while not await self._ends_within(_LOOK_SECONDS):
            announcement = self._board.read()
            before, progress = progress, announcement.progress
            if progress != before:
                # It gets on, and the system need not be asked about all its threads.
                continue
            look = Look(time.monotonic(), announcement, process_activity(self.pid))
            if (hang := detector.judge(look)) is not None:
                self._kill(hang)
                return

    async def _watch_loading(self) -> None:
        """Kills the process if it does nothing before it takes requests."""
        watch = LoadingWatch()
        while not await self._ends_within(LOOK_SECONDS):
            announcement = self._board.read()
            if announcement.is_loaded:
                return
            # It looks at all processes of the system.
            activity = await asyncio.to_thread(tree_activity, self.pid)
            if watch.is_still(time.monotonic(), activity):
                self._kill(f"hangs: {announcement} has stopped computing")
                return

    def _kill(self, reason: str) -> None:
        # A stopped process would keep any other signal for later.
        self._hang = reason
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def description(self) -> str:
        """Returns how the process has ended, as the end of a sentence.

        :meth:`close` must have returned.
        """
        if self._hang is not None:
            return f"{self._hang}, and was killed"
        code = self._exit_code
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        name = signal_name(-code)
        if code == -signal.SIGKILL:
            return f"was killed by {name}, as by a system that is out of memory"
        return f"was killed by {name}"

    def close_queues(self) -> None:
        """Closes the queues of a worker that has ended.

        Afterwards nobody tries to send it anything.
        """
        close_queues(self._queues, self._proxy)

    async def close(self) -> None:
        """Ends the worker if it runs, and frees all.  Further calls do nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._watching is not None:
            self._watching.cancel()
        if self._sentinel is not None and not self._ended.is_set():
            # It has nothing to save, and leaves other signals to the server.
            self._process.kill()
            await self._ended.wait()
        try:
            await self._contexts.aclose()
            self.close_queues()
        finally:
            await self._reap()

    async def _reap(self) -> None:
        if self._sentinel is None:
            return
        self._exit_code = await reaped(self._process, _REAP_SECONDS)
        if self._exit_code is not None:
            self._process.close()
            return
        # Python reaps it when it starts another one.
        logger.warning(
            "the system still frees what the model worker %d held, %.0f s after its "
            "end",
            self.pid,
            _REAP_SECONDS,
        )
