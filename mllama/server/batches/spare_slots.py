"""Lets batches use the slots that no client needs, and takes them back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.server.clients import ClientId
from mllama.server.engine_client import Turns
from mllama.server.forwarding_engine_client import ForwardingEngineClient
from mllama.server.request_origin import RequestOrigin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


Result = TypeVar("Result")

BATCHES: Final = ClientId(address="batches")
"""The client that all batches are to the queue."""

_LOOK_SECONDS: Final = 0.02
"""How often the queue is looked at while batches run or wait."""


class QueueState(Protocol):
    """What batches look at: the queue before the engine, which doesn't count them."""

    @property
    def slots(self) -> int:
        """Returns how many answers the engine generates at a time, now."""
        ...

    @property
    def most_slots(self) -> int:
        """Returns how many it may ever generate at a time."""
        ...

    @property
    def running(self) -> int:
        """Returns how many answers have a slot, those of batches included."""
        ...

    @property
    def waiting(self) -> int:
        """Returns how many clients' requests have no slot yet."""
        ...

    def held_by(self, client: ClientId) -> int:
        """Returns how many answers of a client have a slot."""
        ...


class SpareSlots:
    """Runs the requests of batches in slots that nobody else needs.

    One begins when no client waits and a slot is free.  While clients wait and no slot
    is free, or there are fewer slots than before, the youngest requests of batches are
    cancelled, one for each; they begin again later.

    Args:
        queue: The queue before the engine.
    """

    def __init__(self, queue: QueueState) -> None:
        self._queue = queue
        self._turns = asyncio.Lock()
        self._freed = asyncio.Event()
        self._running: dict[asyncio.Task[Any], bool] = {}
        self._watch: asyncio.Task[None] | None = None

    @property
    def most_slots(self) -> int:
        """Returns how many requests can ever run at a time."""
        return self._queue.most_slots

    async def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Returns the result of work, which may have been begun several times.

        Args:
            work: Asks the engine for one answer.
        """
        while True:
            # Those of several batches take turns: a lock is fair.
            async with self._turns:
                while not self._is_free():
                    self._freed.clear()
                    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                        await asyncio.wait_for(self._freed.wait(), _LOOK_SECONDS)
                task = asyncio.ensure_future(work())
                self._running[task] = False
            self._start_watch()
            try:
                await asyncio.wait([task])
                if not (task.cancelled() and self._running[task]):
                    return task.result()
            finally:
                del self._running[task]
                self._freed.set()
                if not task.done():
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    def _is_free(self) -> bool:
        queue, held = self._queue, self._queue.held_by(BATCHES)
        # Those that are being prepared will hold a slot, too.
        used = queue.running - held + max(held, len(self._running))
        return queue.waiting == 0 and used < queue.slots

    def _start_watch(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._yield_slots())

    async def _yield_slots(self) -> None:
        """Takes slots from batches while clients wait for one."""
        while self._running:
            await asyncio.sleep(_LOOK_SECONDS)
            free = self._queue.slots - self._queue.running
            yielding = sum(self._running.values())
            wanted = self._queue.waiting - free - yielding
            for task, is_yielding in reversed(list(self._running.items())):
                if wanted > 0 and not is_yielding:
                    self._running[task] = True
                    task.cancel()
                    wanted -= 1


class BatchEngineClient(ForwardingEngineClient):
    """An engine client whose requests are those of batches, whoever made them.

    Args:
        engine: Answers requests.
    """

    def generate(
        self,
        request: GenerationRequest,
        *,
        origin: RequestOrigin | None = None,
        turns: Turns | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answers a request; see :class:`~mllama.server.engine_client.EngineClient`."""
        origin = replace(origin or RequestOrigin(), client=BATCHES, is_batch=True)
        return self._engine.generate(request, origin=origin, turns=turns)
