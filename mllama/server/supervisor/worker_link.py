"""The server's way to one worker, which may die at any time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from mllama.errors import EngineUnavailableError
from mllama.max_compat.server import RequestQueueFull, SchedulerResult


class WorkerLink:
    """MAX's proxy of one worker, whose requests all end when the worker does.

    Args:
        proxy: MAX's proxy.
    """

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy
        self._failure: EngineUnavailableError | None = None
        self._submissions: set[asyncio.Task[Any]] = set()

    @property
    def pending_out_queues(self) -> dict[Any, asyncio.Queue[Any]]:
        """Returns the queues of reports by the ids of requests that have not ended."""
        queues: dict[Any, asyncio.Queue[Any]] = self._proxy.pending_out_queues
        return queues

    def check_alive(self) -> None:
        """Checks that the worker has not ended.

        Raises:
            EngineUnavailableError: If it has.
        """
        if self._failure is not None:
            raise self._failure.renewed()

    async def stream(self, request_id: Any, context: Any) -> Any:
        """Submits a request, and returns MAX's generator of reports about it.

        Raises:
            RequestQueueFull: If too many requests wait.
            EngineUnavailableError: If the worker has ended.
        """
        self.check_alive()
        # Its queue may be waiting for a worker that will never read it.
        task = asyncio.ensure_future(self._proxy.stream(request_id, context))
        self._submissions.add(task)
        try:
            reports = await task
        except (RequestQueueFull, asyncio.CancelledError):
            self.check_alive()
            raise
        finally:
            self._submissions.discard(task)
        if self._failure is not None:
            self.pending_out_queues.pop(request_id, None)
            self.check_alive()
        return reports

    def cancel(self, request_id: Any) -> None:
        """Cancels a request, unless the worker has ended."""
        if self._failure is None:
            self._proxy.cancel(request_id)

    def fail(self, failure: EngineUnavailableError) -> int:
        """Ends all requests, and refuses new ones.  Further calls do nothing.

        Args:
            failure: Why.

        Returns:
            The number of requests that have ended.
        """
        if self._failure is not None:
            return 0
        self._failure = failure
        ended = len(self._submissions)
        for task in self._submissions:
            task.cancel()
        report = time.monotonic(), SchedulerResult.failed(str(failure))
        for queue in self.pending_out_queues.values():
            queue.put_nowait(report)
        return ended + len(self.pending_out_queues)
