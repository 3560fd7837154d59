"""The engine client that MAX Serve's worker process stands behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from max.pipelines.context.exceptions import InputError

from mllama.errors import EngineError, EngineOverloadedError, RequestError
from mllama.max_compat.server import (
    RequestQueueFull,
    SchedulerResult,
    inject_trace_carrier,
)
from mllama.requests.answers import Answers
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.events import Accepted, Event, Piece
from mllama.requests.piece_merger import PieceMerger
from mllama.requests.preparation import prepare_request, tokenize
from mllama.requests.request import ChatPrompt, GenerationRequest
from mllama.requests.token_bytes import TokenBytes
from mllama.server.generation_metrics import GenerationMetrics

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles

logger = logging.getLogger("mllama")

_RETRY_SECONDS: Final = 0.05
"""Pause before another answer of a running request is submitted again."""

Report = tuple[int, Sequence[Any]]
"""A choice, and what the scheduler reports about it, in order."""


class MaxEngineClient:
    """An :class:`~mllama.server.engine_client.EngineClient` over MAX's worker.

    Args:
        worker: MAX's proxy of the worker.
        tokenizer: The model's tokenizer.
        settings: The engine's limits and defaults.
        min_piece_tokens: Tokens of a piece of an answer, at least; see
            :class:`~mllama.requests.piece_merger.PieceMerger`.
    """

    def __init__(
        self,
        worker: Any,
        tokenizer: Any,
        settings: EngineSettings,
        *,
        min_piece_tokens: int = 1,
    ) -> None:
        self._worker = worker
        self._tokenizer = tokenizer
        self._token_bytes = TokenBytes(tokenizer.delegate)
        self._failure: str | None = None
        self._min_piece_tokens = min_piece_tokens
        self.settings = settings

    async def generate(
        self,
        request: GenerationRequest,
        *,
        request_id: str | None = None,
        arrived_ns: int | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answers a request; see :class:`~mllama.server.engine_client.EngineClient`."""
        self._check_alive()
        started_ns = time.perf_counter_ns() if arrived_ns is None else arrived_ns
        metrics = GenerationMetrics(started_ns)
        async with metrics.preparation(self._worker):
            prepared = await prepare_request(
                request, self._tokenizer, self.settings, request_id
            )
        answers = Answers(prepared, self._tokenizer, started_ns / 1e9)
        merger = (
            PieceMerger(self._min_piece_tokens) if self._min_piece_tokens > 1 else None
        )
        streams = _Streams(self._worker, prepared.contexts)
        try:
            try:
                await streams.start()
            except RequestQueueFull as error:
                raise EngineOverloadedError(
                    "too many requests are waiting; try again later"
                ) from error
            metrics.submitted()
            yield Accepted()
            async with aclosing(streams.reports()) as reports:
                async for choice, outputs in reports:
                    for event in answers.receive(
                        choice, outputs, time.perf_counter_ns() / 1e9
                    ):
                        if isinstance(event, Piece):
                            metrics.received(len(event.token_ids))
                        if merger is None:
                            yield event
                            continue
                        for due in merger.push(event):
                            yield due
                    if answers.is_finished(choice) and not outputs[-1].is_done:
                        await streams.end(choice)
            if not answers.are_finished:
                raise EngineError(self._failure or "the engine dropped the request")
        except InputError as error:
            # The only errors that MAX's scheduler reports by itself.
            if self._failure is not None:
                raise EngineError(self._failure) from error
            raise RequestError(" ".join(str(error).split())) from error
        finally:
            metrics.ended()
            await streams.close()

    def prepare_image(self, image: ImageFile | bytes) -> Future[ImageTiles]:
        """Starts to decode an image and to split it into tiles, in another thread."""
        tiles: Future[ImageTiles] = self._tokenizer.prepare_image(image)
        return tiles

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int]:
        """Returns the ids of a prompt's tokens, in which each image is one.

        Raises:
            RequestError: If the chat template rejects the messages.
        """
        ids: list[int] = (await tokenize(prompt, self._tokenizer)).tolist()
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Returns what a token stands for; a special token's name for a special one."""
        return self._token_bytes(token_id)

    def fail(self, reason: str) -> None:
        """Ends all requests with an :class:`EngineError`, and refuses new ones.

        Args:
            reason: Why, in one line.
        """
        self._failure = reason
        ended = SchedulerResult.failed(reason)
        for queue in self._worker.pending_out_queues.values():
            queue.put_nowait((time.monotonic(), ended))

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise EngineError(self._failure)


class _Streams:
    """What the scheduler reports about the choices of one request.

    The first choice is submitted alone.  Once it has a token, the caches have the
    prompt and its images, and the others are submitted.

    Args:
        worker: MAX's proxy of the worker.
        contexts: MAX's context of each choice.
    """

    def __init__(self, worker: Any, contexts: Sequence[Any]) -> None:
        self._worker = worker
        self._contexts = contexts
        self._streams: dict[int, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Submits the first choice.

        Raises:
            RequestQueueFull: If too many requests wait.
        """
        await self._submit(0)

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
                raise report
            if report is None:
                running -= 1
            else:
                yield report

    async def _submit_when_there_is_room(self, choice: int) -> None:
        """Submits another choice of a request that runs already."""
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
