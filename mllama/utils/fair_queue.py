"""The order of what waits: whoever has least goes next."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Ticket:
    """A place in the queue.

    Attributes:
        client: Who waits.
        weight: How much it waits for.
        number: When it came, by the queue's clock.
    """

    client: Hashable
    weight: int
    number: int


def _number(ticket: Ticket) -> int:
    return ticket.number


@dataclass
class _Account:
    """What a client holds, when that changed, and its places in order."""

    held: int = 0
    changed: int = -1
    waiting: list[Ticket] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, int]:
        """Returns what decides who is first; the account must have a place."""
        return self.held, max(self.changed, self.waiting[0].number)

    @property
    def next_weight(self) -> int:
        """Returns what the first place waits for; the account must have one."""
        return self.waiting[0].weight


class FairQueue:
    """Clients that wait, with what each holds already.

    The first one is of the client that holds least.  Among clients that hold the same
    it is of the one that has waited longest since it last got something or gave it
    back: they take turns, and none of them waits for ever.  The places of one client
    are served in the order in which they came.

    Args:
        clock: Counts what happens; queues between which places move share one.
    """

    def __init__(self, clock: Iterator[int] | None = None) -> None:
        self._accounts: dict[Hashable, _Account] = {}
        self._waiting: dict[Hashable, _Account] = {}
        self._clock = itertools.count() if clock is None else clock
        self._count = 0

    def __len__(self) -> int:
        """Returns the number of places that are taken."""
        return self._count

    def join(self, client: Hashable, weight: int, number: int | None = None) -> Ticket:
        """Returns a new place.

        Args:
            client: Who waits.
            weight: How much it waits for.
            number: When it came, if it had a place in another queue; None is now.
        """
        ticket = Ticket(client, weight, next(self._clock) if number is None else number)
        account = self._accounts.setdefault(client, _Account())
        insort(account.waiting, ticket, key=_number)
        self._waiting[client] = account
        self._count += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Gives a place up.  A place that has been given up stays so."""
        account = self._accounts.get(ticket.client)
        if account is None or ticket not in account.waiting:
            return
        # Several places may have one number.
        start = bisect_left(account.waiting, ticket.number, key=_number)
        del account.waiting[account.waiting.index(ticket, start)]
        self._count -= 1
        if not account.waiting:
            del self._waiting[ticket.client]
        self._forget_idle(ticket.client, account)

    def first(self, most_held: int | None = None) -> Ticket | None:
        """Returns the place that is served next, or None if there is none.

        Args:
            most_held: The most that a client may hold.  Those that would have more are
                passed over.
        """
        accounts = self._within(most_held)
        account = min(accounts, key=lambda each: each.rank, default=None)
        return None if account is None else account.waiting[0]

    def is_waiting(self, client: Hashable) -> bool:
        """Returns True if a client waits."""
        return client in self._waiting

    def _within(self, most_held: int | None) -> Iterator[_Account]:
        """Yields who waits, but for those who would hold too much."""
        for account in self._waiting.values():
            if most_held is None or account.held + account.next_weight <= most_held:
                yield account

    def held_by(self, client: Hashable) -> int:
        """Returns how much a client holds."""
        account = self._accounts.get(client)
        return 0 if account is None else account.held

    def change_held(self, client: Hashable, change: int) -> None:
        """Notes that a client holds more, or less."""
        account = self._accounts.setdefault(client, _Account())
        account.held += change
        account.changed = next(self._clock)
        self._forget_idle(client, account)

    def _forget_idle(self, client: Hashable, account: _Account) -> None:
        # A server sees any number of clients in its life.
        if not account.held and not account.waiting:
            del self._accounts[client]
