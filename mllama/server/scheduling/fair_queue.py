"""The order of what waits: whoever has least goes next, first come, first served."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Ticket:
    """A place in the queue.

    Attributes:
        client: Who waits.
        weight: How much it waits for.
        number: Its place among all that have come, from 0.
    """

    client: Hashable
    weight: int
    number: int


@dataclass
class _Account:
    """What a client holds, and its places in the queue by their numbers, in order."""

    held: int = 0
    waiting: dict[int, Ticket] = field(default_factory=dict)


class FairQueue:
    """Clients that wait, with what each holds already.

    The first one is of the client that holds least.  Among clients that hold the same,
    and among the places of one client, it is the one that came first.
    """

    def __init__(self) -> None:
        self._accounts: dict[Hashable, _Account] = {}
        self._waiting: dict[Hashable, _Account] = {}
        self._next_number = 0
        self._count = 0

    def __len__(self) -> int:
        """Returns the number of places that are taken."""
        return self._count

    def join(self, client: Hashable, weight: int) -> Ticket:
        """Returns a new place at the end of a client's.

        Args:
            client: Who waits.
            weight: How much it waits for.
        """
        ticket = Ticket(client, weight, self._next_number)
        self._next_number += 1
        account = self._accounts.setdefault(client, _Account())
        account.waiting[ticket.number] = ticket
        self._waiting[client] = account
        self._count += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Gives a place up.  A place that has been given up stays so."""
        account = self._accounts.get(ticket.client)
        if account is None or account.waiting.pop(ticket.number, None) is None:
            return
        self._count -= 1
        if not account.waiting:
            del self._waiting[ticket.client]
        self._forget_idle(ticket.client, account)

    def first(self) -> Ticket | None:
        """Returns the place that is served next, or None if nobody waits."""
        first: Ticket | None = None
        least = 0
        for account in self._waiting.values():
            ticket = next(iter(account.waiting.values()))
            if first is None or (account.held, ticket.number) < (least, first.number):
                first, least = ticket, account.held
        return first

    def last_of(self, client: Hashable) -> Ticket | None:
        """Returns the place that a client took last, or None if it has none."""
        account = self._waiting.get(client)
        return None if account is None else next(reversed(account.waiting.values()))

    def longest(self) -> Hashable | None:
        """Returns the client with most places, or None if nobody waits."""
        return max(
            self._waiting,
            key=lambda each: len(self._waiting[each].waiting),
            default=None,
        )

    def places_of(self, client: Hashable) -> int:
        """Returns the number of places that a client has."""
        account = self._waiting.get(client)
        return 0 if account is None else len(account.waiting)

    def held_by(self, client: Hashable) -> int:
        """Returns how much a client holds."""
        account = self._accounts.get(client)
        return 0 if account is None else account.held

    def change_held(self, client: Hashable, change: int) -> None:
        """Notes that a client holds more, or less."""
        account = self._accounts.setdefault(client, _Account())
        account.held += change
        self._forget_idle(client, account)

    def _forget_idle(self, client: Hashable, account: _Account) -> None:
        # A server sees any number of clients in its life.
        if not account.held and not account.waiting:
            del self._accounts[client]
