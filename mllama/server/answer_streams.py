"""The answers to one request in MAX's worker: submitted, followed and cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Final

from mllama.image_cache.shared_pixels import SharedPixels
from mllama.max_compat.server import RequestQueueFull, inject_trace_carrier
from mllama.server.engine_client import Turns
from mllama.server.supervisor.worker_link import WorkerLink

logger = logging.getLogger("mllama")

_RETRY_SECONDS: Final = 0.05
"""Pause before another answer of a running request is submitted again."""

Report = tuple[int, Sequence[Any]]
"""A choice, and what the scheduler reports about it, in order."""


class AnswerStreams:
    """What the scheduler reports about the choices of one request.

    The first choice is submitted alone.  Once it has a token, the caches have the
    prompt and its images, and the others are submitted.  The pixels of the images go to
    the worker once, with the first one, if the system has memory to share.

    Args:
        current_worker: Returns the way to the worker, once a turn has come.
        contexts: MAX's context of each choice.
        turns: Awaited before each choice is submitted; None submits at once.
    """

    def __init__(
        self,
        current_worker: Callable[[], WorkerLink],
        contexts: Sequence[Any],
        turns: Turns | None = None,
    ) -> None:
        self._current_worker = current_worker
        self._link: WorkerLink | None = None
        self._contexts = contexts
        self._turns = turns
        self._streams: dict[int, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._pixels: asyncio.Task[SharedPixels | None] | None = None

    async def start(self) -> None:
        """Submits the first choice when its turn comes.

        Raises:
            RequestQueueFull: If too many requests wait.
            EngineUnavailableError: If there is no worker.
        """
        if self._turns is not None:
            await self._turns.next()
        # All choices go to this one, which has the images of the first.
        self._link = self._current_worker()
        await self._submit(0)

    @property
    def _worker(self) -> WorkerLink:
        assert self._link is not None
        return self._link

    def check_worker(self) -> None:
        """Checks that the worker that has the request hasn't ended.

        Raises:
            EngineUnavailableError: If it has.
        """
        if self._link is not None:
            self._link.check_alive()

    async def _submit(self, choice: int) -> None:
        context = self._contexts[choice]
        inject_trace_carrier(context)
        self._streams[choice] = await self._worker.stream(context.request_id, context)

    async def reports(self) -> AsyncGenerator[Report, None]:
        """Yields the reports about all choices as they come.

        Raises:
            InputError: If the scheduler refuses a choice.
        """
        if len(self._contexts) == 1:
            # Without a queue, which would cost time for every token.
            async for outputs, _ in self._streams[0]:
                yield 0, outputs
            return
        async for report in self._merged():
            yield report

    async def _merged(self) -> AsyncIterator[Report]:
        if self._contexts[0].images:
            self._pixels = asyncio.ensure_future(_shared_pixels(self._contexts[0]))
        reports: asyncio.Queue[Report | Exception | None] = asyncio.Queue()
        first = asyncio.Event()

        async def follow(choice: int) -> None:
            try:
                if choice:
                    await first.wait()
                    await self._submit_when_there_is_room(choice)
                async for outputs, _ in self._streams[choice]:
                    reports.put_nowait((choice, outputs))
                    first.set()
            except Exception as error:
                reports.put_nowait(error)
            else:
                reports.put_nowait(None)
                first.set()

        self._tasks = [
            asyncio.ensure_future(follow(choice))
            for choice in range(len(self._contexts))
        ]
        running = len(self._tasks)
        while running:
            report = await reports.get()
            if isinstance(report, Exception):
                try:
                    raise report
                finally:
                    # It holds this frame, and would hold itself by it.
                    del report
            if report is None:
                running -= 1
            else:
                yield report

    async def _submit_when_there_is_room(self, choice: int) -> None:
        """Submits another choice of a request that runs already."""
        if self._pixels is not None and (pixels := await asyncio.shield(self._pixels)):
            pixels.replace_pixels(self._contexts[choice])
        if self._turns is not None:
            await self._turns.next()
        while True:
            try:
                await self._submit(choice)
            except RequestQueueFull:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def end(self, choice: int) -> None:
        """Cancels a choice whose answer is complete."""
        if self._tasks:
            # Its stream is being waited for in the task.
            self._worker.cancel(self._contexts[choice].request_id)
        else:
            await self.close()

    async def close(self) -> None:
        """Cancels what runs.  Further calls do nothing."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        streams, self._streams = self._streams, {}
        for choice, stream in streams.items():
            with contextlib.suppress(Exception):
                await stream.aclose()
            # Closing a stream that nobody has waited for yet does nothing.
            request_id = self._contexts[choice].request_id
            if self._worker.pending_out_queues.pop(request_id, None) is not None:
                self._worker.cancel(request_id)
        shared, self._pixels = self._pixels, None
        if shared is not None and (pixels := await shared):
            pixels.close()


async def _shared_pixels(context: Any) -> SharedPixels | None:
    """Returns memory with the pixels of a request's images, if the system has some."""
    if not SharedPixels.are_possible():
        return None
    try:
        return await asyncio.to_thread(SharedPixels, context)
    except OSError as error:
        logger.warning("each answer takes the pixels of its images along: %s", error)
        return None
