"""A semaphore of weights: bounds what requests use together, and lets others wait."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator

from mllama.utils.fair_queue import FairQueue, Ticket

ANYBODY = None
"""The client of what no client asked for, or of one that isn't known."""


class Lease:
    """A part of a semaphore's capacity, held until it is released.

    It is a context manager that releases what is left of it.

    Args:
        semaphore: The semaphore.
        client: Who holds it.
        weight: How much it is.
    """

    def __init__(self, semaphore: FairSemaphore, client: Hashable, weight: int) -> None:
        self._semaphore = semaphore
        self._client = client
        self._weight = weight

    @property
    def weight(self) -> int:
        """Returns how much is held."""
        return self._weight

    @property
    def is_awaited(self) -> bool:
        """Returns True if somebody waits for what is held here."""
        return self._weight > 0 and self._semaphore._is_awaited_from(self._client)

    def release(self, weight: int | None = None) -> None:
        """Gives back what is held, or a part of it.  Nothing is given back twice.

        Args:
            weight: How much, if not all.
        """
        freed = self._weight if weight is None else min(weight, self._weight)
        if freed:
            # Otherwise it would count as a change, after which others come first.
            self._weight -= freed
            self._semaphore._free(self._client, freed)

    async def grow(self, weight: int = 1, number: int | None = None) -> None:
        """Waits for more, in the same order as those that have nothing yet.

        Whoever waits here keeps what it holds.  It must be able to end without more, or
        two of them may wait for each other for ever.

        Args:
            weight: How much more.
            number: See :meth:`FairSemaphore.acquire`.

        Raises:
            ValueError: If it is more than the semaphore can ever have.
        """
        more = await self._semaphore.acquire(weight, self._client, number)
        self._weight += more._handed_over()

    def _handed_over(self) -> int:
        """Returns how much is held, which another lease holds from now on."""
        weight, self._weight = self._weight, 0
        return weight

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class FairSemaphore:
    """Shares a capacity among clients: whoever holds least is served next.

    A client whose turn it is, and for which there isn't enough yet, keeps its turn:
    nobody overtakes it, so that what needs much gets it too.  Cancelling a task that
    waits gives its place up, and what it may have got already.

    All of it belongs to one event loop.

    Args:
        capacity: How much there is.
        clock: See :class:`FairQueue`.
        most_each: The most that one client may hold; None is all of it.
    """

    def __init__(
        self,
        capacity: int,
        clock: Iterator[int] | None = None,
        *,
        most_each: int | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"the capacity must be positive, not {capacity}")
        self._capacity = capacity
        self._most_each = capacity if most_each is None else most_each
        self._held = 0
        self._queue = FairQueue(clock)
        self._futures: dict[Ticket, asyncio.Future[Lease]] = {}

    @property
    def capacity(self) -> int:
        """Returns how much there is, free or not."""
        return self._capacity

    @property
    def most_each(self) -> int:
        """Returns how much one client may hold."""
        return self._most_each

    @property
    def held(self) -> int:
        """Returns how much is held."""
        return self._held

    @property
    def waiting(self) -> int:
        """Returns how many wait."""
        return len(self._queue)

    @property
    def free(self) -> int:
        """Returns how much is held by nobody."""
        return self._capacity - self._held

    def must_wait(self, weight: int, client: Hashable) -> bool:
        """Returns True if a client would have to wait for so much."""
        most = min(self.free, self._most_each - self.held_by(client))
        return weight > most or self._is_awaited_from(client)

    def held_by(self, client: Hashable) -> int:
        """Returns how much a client holds."""
        return self._queue.held_by(client)

    async def acquire(
        self,
        weight: int = 1,
        client: Hashable = ANYBODY,
        number: int | None = None,
        *,
        seconds: float | None = None,
    ) -> Lease:
        """Waits until there is enough, and returns it.

        It doesn't give other tasks a turn if there is enough and nobody waits.

        Args:
            weight: How much.
            client: Who asks.
            number: When it came, if it had a place in another queue; None is now.
            seconds: The longest that it waits; None waits for ever.

        Raises:
            ValueError: If it is more than one client can ever have, which the
                caller should refuse in its own words.
            asyncio.TimeoutError: If there isn't enough in time.
        """
        if not 0 <= weight <= self._most_each:
            raise ValueError(
                f"the weight must be from 0 to {self._most_each}, not {weight}"
            )
        ticket = self._queue.join(client, weight, number)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Lease] = loop.create_future()
        self._futures[ticket] = future
        self._serve()
        alarm = None
        if seconds is not None and not future.done():
            alarm = loop.call_later(seconds, _end_wait, future)
        try:
            return await future
        except BaseException:
            self._give_up(ticket, future)
            raise
        finally:
            if alarm is not None:
                alarm.cancel()

    def _serve(self) -> None:
        """Serves those whose turn it is, as long as there is enough for them."""
        while (ticket := self._queue.first(self._most_each)) is not None:
            if self._held + ticket.weight > self._capacity:
                return
            self._queue.leave(ticket)
            future = self._futures.pop(ticket)
            if future.done():
                continue  # Cancelled, or its time is over, and its task not run since.
            self._held += ticket.weight
            self._queue.change_held(ticket.client, ticket.weight)
            future.set_result(Lease(self, ticket.client, ticket.weight))

    def _is_awaited_from(self, client: Hashable) -> bool:
        """Returns True if somebody waits for what a client holds."""
        # Whoever holds as much as one client may waits for its own alone.
        is_short = self._queue.first(self._most_each) is not None
        return is_short or self._queue.is_waiting(client)

    def _give_up(self, ticket: Ticket, future: asyncio.Future[Lease]) -> None:
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().release()
            return
        self._queue.leave(ticket)
        self._futures.pop(ticket, None)
        # Those behind it may need less.
        self._serve()

    def _free(self, client: Hashable, weight: int) -> None:
        self._held -= weight
        self._queue.change_held(client, -weight)
        self._serve()


def _end_wait(future: asyncio.Future[Lease]) -> None:
    if not future.done():
        future.set_exception(asyncio.TimeoutError())
