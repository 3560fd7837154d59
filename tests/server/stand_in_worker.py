"""MAX's proxy of the worker without a worker: tests answer in its place."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from max.pipelines.context import GenerationStatus, TextGenerationOutput
from max.serve.scheduler_result import SchedulerResult
from max.serve.worker_interface.zmq_interface import ZmqModelWorkerProxy

from mllama.server.supervisor.worker_link import WorkerLink

ACTIVE = GenerationStatus.ACTIVE
FULL = GenerationStatus.MAXIMUM_LENGTH


class _Requests:
    """A queue that has room, or none."""

    def __init__(self) -> None:
        self.contexts: dict[str, Any] = {}
        self.room = 10**6
        self.is_stuck = False
        self.reached = asyncio.Event()
        self._arrived = asyncio.Condition()

    async def writable(self) -> bool:
        return len(self.contexts) < self.room

    async def put(self, context: Any) -> None:
        self.reached.set()
        if self.is_stuck:
            await asyncio.Event().wait()
        async with self._arrived:
            self.contexts[str(context.request_id)] = context
            self._arrived.notify_all()

    async def arrival(self, count: int) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.contexts) >= count)


class _Cancellations:
    def __init__(self) -> None:
        self.ids: list[str] = []

    def put_nowait(self, ids: list[Any]) -> None:
        self.ids += map(str, ids)


class StandInWorker(ZmqModelWorkerProxy[Any, Any]):
    """MAX's proxy, whose other end is the test."""

    def __init__(self) -> None:
        self.requests = _Requests()
        self.cancellations = _Cancellations()
        queues: tuple[Any, Any, Any] = (self.requests, None, self.cancellations)
        super().__init__(*queues)
        self.link = WorkerLink(self)

    def current(self) -> WorkerLink:
        """Returns the way to the worker, as the supervisor does."""
        self.link.check_alive()
        return self.link

    @property
    def cancelled(self) -> list[str]:
        """Returns the ids of cancelled requests."""
        return self.cancellations.ids

    def contexts(self) -> list[Any]:
        """Returns the contexts of all requests, in the order of their arrival."""
        return list(self.requests.contexts.values())

    async def arrival(self, count: int) -> None:
        """Waits until so many requests have arrived."""
        await asyncio.wait_for(self.requests.arrival(count), 10)

    def answer(
        self,
        request_id: str,
        tokens: list[int],
        status: GenerationStatus = ACTIVE,
        cached: int | None = None,
    ) -> None:
        """Reports a step."""
        context = self.requests.contexts[request_id]
        output = TextGenerationOutput(
            request_id=context.request_id,
            tokens=tokens,
            final_status=status,
            num_cached_tokens=cached,
        )
        self._deliver(context.request_id, SchedulerResult.create(output))

    def refuse(self, request_id: str, reason: str) -> None:
        """Reports that the scheduler refuses a request."""
        context = self.requests.contexts[request_id]
        self._deliver(context.request_id, SchedulerResult.failed(reason))

    def drop(self, request_id: str) -> None:
        """Reports that a request was cancelled."""
        context = self.requests.contexts[request_id]
        self._deliver(context.request_id, SchedulerResult.cancelled())

    def _deliver(self, request_id: Any, result: SchedulerResult[Any]) -> None:
        if request_id in self.pending_out_queues:
            self.pending_out_queues[request_id].put_nowait((time.monotonic(), result))
