"""The queue before the engine: which request is prepared, and which begins, next."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final

from mllama.errors import EngineOverloadedError
from mllama.server.observability.metrics import METRICS
from mllama.server.scheduling.fair_semaphore import FairSemaphore, Lease
from mllama.server.scheduling.options import OverloadOptions
from mllama.server.scheduling.progress import Progress, PromptWork
from mllama.utils.fair_queue import FairQueue, Ticket

_ANSWERS_PER_EXTRA_SLOT: Final = 8
"""For so many answers at a time, one more is handed to the engine.

It begins in the step after one has ended, where one from the queue begins a step or two
later.  More of them would come before a client that has none.
"""

_FEWEST_PREPARED: Final = 2
"""Requests that are ready before they get a slot, at least."""


def new_queue(batch_size: int, options: OverloadOptions) -> RequestQueue:
    """Returns the queue of a server.

    Args:
        batch_size: How many answers the engine generates at a time.
        options: What the server does when there is more to do than it can.
    """
    return RequestQueue(
        batch_size + batch_size // _ANSWERS_PER_EXTRA_SLOT,
        limit=options.max_queue_size,
        max_seconds=options.max_time_to_first_token,
        prepared_ahead=max(_FEWEST_PREPARED, batch_size),
    )


NO_WORK: Final = PromptWork()


def _whole_seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))


class Place:
    """The place of one request in the queue, until the request ends.

    Args:
        queue: The queue.
        ticket: Its rank.
        work: What the engine has to do before the request's first token.
        fail: Ends the request with an error, if another one gets its place.
        is_observed: Whether its wait counts among those of requests.
    """

    def __init__(
        self,
        queue: RequestQueue,
        ticket: Ticket,
        work: PromptWork,
        fail: Callable[[Exception], None],
        *,
        is_observed: bool = True,
    ) -> None:
        self._queue = queue
        self.ticket = ticket
        self.work = work
        self.fail = fail
        self.turn = asyncio.get_running_loop().create_future()
        self._lease: Lease | None = None
        self._is_left = False
        self._wait = METRICS.queue_wait(is_observed=is_observed)

    @property
    def is_waiting(self) -> bool:
        """Returns True until the first answer may begin."""
        return self._lease is None and not self._is_left

    async def preparation(self) -> None:
        """Waits until the request should be prepared, soon before it begins."""
        with self._wait.part():
            await self.turn

    async def next(self) -> None:
        """Waits until the request's first, or another, answer may begin.

        Raises:
            EngineOverloadedError: If the place has been given up meanwhile.
        """
        if self._lease is None:
            with self._wait.part():
                lease = await self._queue.slot(self)
            if self._is_left:
                lease.release()
                raise EngineOverloadedError("the request has been given up")
            self._lease = lease
            self._wait.end()
            self._queue.has_begun(self)
        else:
            await self._lease.grow(number=self.ticket.number)
            if self._is_left:
                self._lease.release()
            else:
                self._queue.has_grown(self)

    def prompt_read(self) -> None:
        """Notes that the engine has read the prompt."""
        self._queue.progress.read(self.ticket.number)

    def free_slot(self) -> None:
        """Frees the slot of one answer."""
        if self._lease is not None and self._lease.weight:
            self._lease.release(1)
            self._queue.has_freed(self, 1)

    def leave(self) -> None:
        """Gives everything up.  Further calls do nothing."""
        if self._is_left:
            return
        was_waiting, self._is_left = self.is_waiting, True
        self.turn.cancel()
        self._wait.end()
        self._queue.progress.ended(self.ticket.number)
        if was_waiting:
            self._queue.has_given_up(self)
        elif self._lease is not None:
            freed = self._lease.weight
            self._lease.release()
            self._queue.has_freed(self, freed)


class RequestQueue:
    """Bounds what waits for the engine, and shares its slots fairly among clients.

    A request waits, is prepared, and waits for a slot, in which an answer is generated.
    A free slot goes to the client that has fewest, among those with a request that is
    ready.  Only requests that will soon begin are prepared: few of those that are ready
    would get a slot before them.

    Args:
        slots: How many answers the engine generates at a time.
        limit: How many requests may wait, beside those for which slots are free.
        prepared_ahead: How many requests are ready before they get a slot.
        max_seconds: How long the first token of a request may be expected to take;
            None is any time.
        progress: Measures how long it takes.
    """

    def __init__(
        self,
        slots: int,
        *,
        limit: int,
        prepared_ahead: int,
        max_seconds: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = Progress() if progress is None else progress
        self._max_seconds = max_seconds
        clock = itertools.count()
        self._slots = FairSemaphore(slots, clock)
        self._limit = limit
        self._prepared_ahead = prepared_ahead
        # Those that aren't prepared yet.  Here a client holds those of its requests
        # that are ready, and its slots.
        self._unprepared = FairQueue(clock)
        self._places: dict[Ticket, Place] = {}
        # How many requests of each client are prepared, or being so, without a slot.
        self._ready: Counter[Hashable] = Counter()
        # Those of each client that have no slot and count, in the order in which they
        # came.
        self._waiting: dict[Hashable, dict[Ticket, Place]] = {}
        self._count = 0
        self._closed: Callable[[], Exception] | None = None
        self._is_saturated = False

    @property
    def slots(self) -> int:
        """Returns how many answers the engine generates at a time."""
        return self._slots.capacity

    @property
    def most_slots(self) -> int:
        """Returns the same: an engine doesn't grow."""
        return self.slots

    @property
    def running(self) -> int:
        """Returns how many answers have a slot."""
        return self._slots.held

    def held_by(self, client: Hashable) -> int:
        """Returns how many answers of a client have a slot."""
        return self._slots.held_by(client)

    @property
    def waiting(self) -> int:
        """Returns how many requests have no slot yet."""
        return self._count

    @property
    def limit(self) -> int:
        """Returns how many requests may wait."""
        return self._limit

    def enter(
        self,
        client: Hashable,
        fail: Callable[[Exception], None],
        work: PromptWork = NO_WORK,
        *,
        is_counted: bool = True,
    ) -> Place:
        """Returns a place for a request.

        If too many wait, the client that has most loses its last one, unless that is
        the one which asks.

        Args:
            client: Who asks.
            fail: Ends the request with an error, if it loses its place.
            work: What the engine has to do before the request's first token.
            is_counted: Whether it counts among those that wait.  One that is part of a
                larger request, which has a place already, doesn't.

        Raises:
            EngineOverloadedError: If too many wait, or its first token is expected too
                late.
            Exception: If the queue is closed.
        """
        if is_counted and self._closed is not None:
            raise self._closed()
        if is_counted:
            self._check_time(client, work)
        if is_counted and self._is_full():
            self._make_room_for(client)
        ticket = self._unprepared.join(client, 1)
        place = Place(self, ticket, work, fail, is_observed=is_counted)
        self._places[ticket] = place
        if is_counted:
            self._waiting.setdefault(client, {})[ticket] = place
            self._count += 1
        self._prepare_next()
        return place

    def close(self, error: Callable[[], Exception]) -> None:
        """Ends the requests that have no slot yet, and refuses new ones.

        Parts of requests that run may still begin.

        Args:
            error: Makes the error of each.
        """
        self._closed = error
        places = [each for own in self._waiting.values() for each in own.values()]
        for place in places:
            place.leave()
            place.fail(error())

    async def slot(self, place: Place) -> Lease:
        """Waits for the slot of a request's first answer."""
        ticket = place.ticket
        return await self._slots.acquire(1, ticket.client, ticket.number)

    def has_begun(self, place: Place) -> None:
        """Notes that a request has its first slot."""
        client = place.ticket.client
        self.progress.begun(place.ticket.number, place.work)
        self._waits_no_longer(place)
        self._change_ready(client, -1)
        self._unprepared.change_held(client, 1)
        self._prepare_next()

    def has_grown(self, place: Place) -> None:
        """Notes that a request has another slot."""
        self._unprepared.change_held(place.ticket.client, 1)

    def has_freed(self, place: Place, slots: int) -> None:
        """Notes that a request has given slots back."""
        self._unprepared.change_held(place.ticket.client, -slots)
        if self._is_saturated:
            for _ in range(slots):
                self.progress.slot_freed()
        self._prepare_next()

    def has_given_up(self, place: Place) -> None:
        """Notes that a request without a slot has ended."""
        self._waits_no_longer(place)
        if self._places.pop(place.ticket, None) is not None:
            self._unprepared.leave(place.ticket)
        else:
            self._change_ready(place.ticket.client, -1)
        self._prepare_next()

    def _prepare_next(self) -> None:
        """Lets the next requests be prepared."""
        self._is_saturated = self._slots.free == 0 and self._count > 0
        self.progress.set_saturated(self._is_saturated)
        while (ticket := self._unprepared.first()) is not None:
            ahead = self._ready_before(ticket.client)
            if ahead >= self._prepared_ahead + self._slots.free:
                break
            self._unprepared.leave(ticket)
            self._change_ready(ticket.client, 1)
            turn = self._places.pop(ticket).turn
            if not turn.done():
                turn.set_result(None)

    def _ready_before(self, client: Hashable) -> int:
        """Returns how many that are ready would get a slot before a client's next."""
        level = self._slots.held_by(client) + self._ready[client]
        return sum(
            max(0, min(level - self._slots.held_by(each) + 1, count))
            for each, count in self._ready.items()
        )

    def _change_ready(self, client: Hashable, change: int) -> None:
        self._unprepared.change_held(client, change)
        self._ready[client] += change
        if not self._ready[client]:
            del self._ready[client]

    def _waits_no_longer(self, place: Place) -> None:
        client = place.ticket.client
        waiting = self._waiting.get(client, {})
        if waiting.pop(place.ticket, None) is not None:
            self._count -= 1
            if not waiting:
                del self._waiting[client]

    def _check_time(self, client: Hashable, work: PromptWork) -> None:
        """Refuses a request whose first token would come too late."""
        if self._max_seconds is None:
            return
        seconds = self.progress.seconds_until_first_token(
            work, self._ahead_of(client), free_slots=self._slots.free
        )
        if seconds > self._max_seconds:
            raise EngineOverloadedError(
                f"the first token is expected in {_whole_seconds(seconds)} s, and at "
                f"most {self._max_seconds:g} s are allowed "
                "(--max-time-to-first-token); try again later",
                _whole_seconds(seconds),
            )

    def _ahead_of(self, client: Hashable) -> list[PromptWork]:
        """Returns the work of those that get a slot before a client's next request."""
        own = self._waiting.get(client, {})
        level = self._slots.held_by(client) + len(own)
        ahead = list(own.values())
        for other, places in self._waiting.items():
            if other != client:
                count = max(0, level - self._slots.held_by(other) + 1)
                ahead += list(places.values())[:count]
        return [place.work for place in ahead]

    def _is_full(self) -> bool:
        return self._count >= self._limit + self._slots.free

    def _make_room_for(self, client: Hashable) -> None:
        error = EngineOverloadedError(
            f"too many requests are waiting ({self._count}); try again later",
            _whole_seconds(self.progress.slot_seconds),
        )
        longest = max(self._waiting.values(), key=len, default={})
        if len(longest) <= len(self._waiting.get(client, {})) + 1:
            raise error
        place = longest[next(reversed(longest))]
        place.leave()
        place.fail(error)
