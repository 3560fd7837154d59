"""Runs the batches of a server, a few at a time, and goes on after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from mllama.server.batches.job import BatchJob
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.batches.records import BatchProblem, BatchRecord
from mllama.server.batches.spare_slots import SpareSlots
from mllama.server.batches.stores import BatchStores

logger = logging.getLogger("mllama")

_MOST_RUNNING: Final = 4
"""Batches that run at a time; their requests take turns."""

_SWEEP_SECONDS: Final = 600
"""How often expired files are deleted."""


class BatchWorker:
    """Runs batches until they have ended.

    Args:
        stores: Files and batches.
        answers: Has a line answered.
        slots: Says when.
    """

    def __init__(
        self, stores: BatchStores, answers: LineAnswers, slots: SpareSlots
    ) -> None:
        self._stores = stores
        self._answers = answers
        self._slots = slots
        self._jobs: dict[str, tuple[BatchJob, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Says that there is a new batch."""
        self._changed.set()

    async def cancel(self, batch: BatchRecord) -> None:
        """Cancels a batch that hasn't ended.  Its answers so far are kept."""
        batch.enter("cancelling")
        running = self._jobs.get(batch.id)
        if running is not None:
            running[0].cancel()
        self.wake()
        # A disk that is full keeps no batch running.  Its end is written, too.
        with contextlib.suppress(OSError):
            await self._stores.disk.run(lambda: self._stores.batches.save(batch))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs batches while the context is active; the next server goes on."""
        task = asyncio.ensure_future(self._run())
        try:
            yield
        finally:
            tasks = [task, *(each for _, each in self._jobs.values())]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            with contextlib.suppress(OSError):
                await self._stores.disk.run(self._stores.remove_expired)
            self._start_next()
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _SWEEP_SECONDS)

    def _start_next(self) -> None:
        """Starts batches: first those of owners who have fewest that run."""
        while len(self._jobs) < _MOST_RUNNING:
            waiting = [
                each
                for each in self._stores.batches
                if not each.is_over and each.id not in self._jobs
            ]
            if not waiting:
                return
            running = Counter(job.batch.owner for job, _ in self._jobs.values())
            batch = min(waiting, key=lambda each: (running[each.owner], each.number))
            job = BatchJob(batch, self._stores, self._answers, self._slots)
            task = asyncio.ensure_future(self._finish(job))
            self._jobs[batch.id] = (job, task)

    async def _finish(self, job: BatchJob) -> None:
        """Runs a batch until it has ended, whatever happens to it."""
        try:
            await job.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.error("batch %s failed: %s", job.batch.id, error, exc_info=error)
            problem = BatchProblem(
                code="server_error",
                message="The server failed on this batch; its log has the reason.",
            )
            with contextlib.suppress(OSError):
                await self._stores.disk.run(lambda: job.fail([problem]))
            # Otherwise it would be tried again and again while the disk is broken.
            job.batch.status = "failed"
        finally:
            del self._jobs[job.batch.id]
            self.wake()
