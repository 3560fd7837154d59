"""Bounds the log probabilities that the server keeps for all requests together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from contextvars import ContextVar
from typing import Final

from mllama.errors import EngineOverloadedError

MAX_KEPT: Final = 4_000_000
"""Log probabilities of all answers that aren't complete, and of parts of streams that
their clients haven't read: 1.2 GB at most."""

_RETRY_SECONDS: Final = 10


class KeptLogProbabilities:
    """Counts the log probabilities that requests keep.

    Nobody waits for others here: a request that keeps some already could wait for one
    that waits for it.

    Args:
        most: The most of all requests; None is any number.
        most_each: The part of them that one client may have.
    """

    def __init__(self, most: int | None = MAX_KEPT, most_each: float = 0.5) -> None:
        self._most = most
        self._most_each = None if most is None else int(most * most_each)
        self._of_client: Counter[Hashable] = Counter()
        self._count = 0

    @property
    def count(self) -> int:
        """Returns how many are kept."""
        return self._count

    def keep(self, client: Hashable, count: int) -> None:
        """Counts more.

        Args:
            client: Whose they are.
            count: How many.

        Raises:
            EngineOverloadedError: If they are too many.
        """
        if self._most is not None and self._most_each is not None:
            are_too_many = (
                self._count + count > self._most
                or self._of_client[client] + count > self._most_each
            )
            if are_too_many:
                raise EngineOverloadedError(
                    "the server keeps too many log probabilities for answers that "
                    "aren't complete or read yet; try again later",
                    _RETRY_SECONDS,
                )
        self._of_client[client] += count
        self._count += count

    def drop(self, client: Hashable, count: int) -> None:
        """Counts fewer.

        Args:
            client: Whose they were.
            count: How many.
        """
        self._count -= count
        self._of_client[client] -= count
        if not self._of_client[client]:
            # A server sees any number of clients in its life.
            del self._of_client[client]


class LogProbabilityShare:
    """The log probabilities of one HTTP request.

    Args:
        kept: Those of all requests.
        client: Who sent the request.
    """

    def __init__(self, kept: KeptLogProbabilities, client: Hashable) -> None:
        self._kept = kept
        self._client = client
        self._count = 0
        self._is_released = False

    def keep(self, count: int) -> None:
        """Counts log probabilities that the request keeps from now on.

        Raises:
            EngineOverloadedError: If the server keeps too many.
        """
        if not self._is_released:
            self._kept.keep(self._client, count)
            self._count += count

    def drop(self, count: int) -> None:
        """Gives a number of them back, or what is left of it."""
        dropped = min(count, self._count)
        if dropped:
            self._count -= dropped
            self._kept.drop(self._client, dropped)

    def release(self) -> None:
        """Gives all back.  Nothing more is kept."""
        self._is_released = True
        self.drop(self._count)


_current: Final[ContextVar[LogProbabilityShare | None]] = ContextVar(
    "log probabilities", default=None
)


def count_for(share: LogProbabilityShare) -> None:
    """Has the running task, and those that it starts, count for a request."""
    _current.set(share)


def current_share() -> LogProbabilityShare | None:
    """Returns the share of the request that the running task works for, if any."""
    return _current.get()
