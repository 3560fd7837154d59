"""An engine client that puts a bounded, fair queue before another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from mllama.errors import EngineError
from mllama.requests.events import Event, PromptRead
from mllama.requests.request import GenerationRequest
from mllama.server.engine_client import EngineClient, Turns
from mllama.server.forwarding_engine_client import ForwardingEngineClient
from mllama.server.kept_log_probabilities import current_share
from mllama.server.request_origin import RequestOrigin
from mllama.server.scheduling.event_queue import EventQueue
from mllama.server.scheduling.progress import work_of
from mllama.server.scheduling.request_queue import Place, RequestQueue
from mllama.server.scheduling.running_answers import RunningAnswers


class QueuedEngineClient(ForwardingEngineClient):
    """An :class:`~mllama.server.engine_client.EngineClient` with a queue before it.

    Each answer is followed in a task of its own, so that its slot is free when the
    engine has ended it, however slowly its client reads.

    Args:
        engine: Answers requests.
        queue: Says when.
    """

    def __init__(self, engine: EngineClient, queue: RequestQueue) -> None:
        super().__init__(engine)
        self._queue = queue
        self._running: set[EventQueue] = set()

    async def generate(
        self,
        request: GenerationRequest,
        *,
        origin: RequestOrigin | None = None,
        turns: Turns | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answers a request; see :class:`~mllama.server.engine_client.EngineClient`."""
        origin = RequestOrigin() if origin is None else origin
        events = EventQueue(current_share())
        place = self._queue.enter(
            origin.client,
            events.put,
            work_of(request),
            is_counted=origin.part == 0 and not origin.is_batch,
        )
        task = asyncio.create_task(self._follow(request, origin, place, events))
        self._running.add(events)
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, Exception):
                    try:
                        raise event
                    finally:
                        # It holds this frame, and would hold itself by it.
                        del event
                yield event
        finally:
            self._running.discard(events)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            # A task that is cancelled before it runs does nothing.
            place.leave()
            events.close()

    async def _follow(
        self,
        request: GenerationRequest,
        origin: RequestOrigin,
        place: Place,
        events: EventQueue,
    ) -> None:
        """Puts the events of a request into a queue: then None, or an error."""
        try:
            await place.preparation()
            answers = RunningAnswers(request.sampling.max_new_tokens)
            source = self._engine.generate(request, origin=origin, turns=place)
            async with aclosing(source):
                async for event in source:
                    if isinstance(event, PromptRead):
                        place.prompt_read()
                    # Attention maps are made after the answers, in their slots.
                    if request.attention is None and answers.is_nearly_over(event):
                        place.free_slot()
                    events.put(event)
        except asyncio.CancelledError:
            # For a reader that isn't the one who has cancelled it.
            events.put(EngineError("the request has been given up"))
            raise
        except Exception as error:
            events.put(error)
        else:
            events.put(None)
        finally:
            place.leave()

    def refuse_waiting(self, error: Callable[[], Exception]) -> None:
        """Ends requests that have not begun, and refuses new ones.

        Args:
            error: Makes the error of each.
        """
        self._queue.close(error)

    def end_running(self, error: Callable[[], Exception]) -> None:
        """Ends the requests that run.

        Args:
            error: Makes the error of each.
        """
        for events in tuple(self._running):
            events.put(error())
