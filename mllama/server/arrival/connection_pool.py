"""The connections of a server: how many there may be, and for how long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, MutableSet
from dataclasses import dataclass
from typing import Any, Final

from mllama.utils.open_files import open_file_limit

_RESERVED_FILES: Final = 128
"""Open files for the model, the images that are fetched, and logs."""

_EVICTED: Final = 0.02
"""Part of the connections that is closed at once to make room for new ones."""


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Limits of connections; times are in seconds.

    Attributes:
        connections: Connections at a time, from the moment when they are accepted.
            Beyond, those without a request that have been quiet for longest are closed.
        handshake_seconds: For a TLS handshake.
        head_seconds: From the first byte of a request to the end of its headers.
        body_pause: Between two pieces of a body.
        body_grace: For a body of any size.
        body_rate: Bytes per second of the rest of a body, on average.
        awaited_grace: For a body of any size, while others wait for the memory that it
            holds.
        awaited_rate: The rate then.
        write_seconds: For which a client may read nothing of an answer, and in which a
            connection that the server closes must end.
    """

    connections: int = 4096
    handshake_seconds: float = 10
    head_seconds: float = 30
    body_pause: float = 30
    body_grace: float = 60
    body_rate: int = 16 << 10
    awaited_grace: float = 20
    awaited_rate: int = 512 << 10
    write_seconds: float = 60

    @classmethod
    def of_this_process(cls) -> ConnectionLimits:
        """Returns limits that leave this process some open files."""
        files = open_file_limit()
        if files is None:
            return cls()
        most = max(files - _RESERVED_FILES, files // 2)
        return cls(connections=min(cls.connections, most))


class CountedConnection(ABC):
    """A connection that counts among those of the server."""

    @property
    @abstractmethod
    def has_request(self) -> bool:
        """Returns True while a request is being answered."""

    @property
    @abstractmethod
    def last_byte(self) -> float:
        """Returns when it was accepted, or something last arrived, by the loop."""

    @abstractmethod
    def check_time(self, now: float) -> None:
        """Closes the connection if its client is too slow.

        Args:
            now: The event loop's time.
        """

    @abstractmethod
    def abort(self) -> None:
        """Closes the connection at once."""


def has_room(
    connections: MutableSet[Any], newcomer: CountedConnection, limit: int
) -> bool:
    """Returns True if there is room for a connection, and makes it if need be.

    Connections without a request are closed, those first that are quiet longest.
    Several at once, so that a flood of connections costs little for each.

    Args:
        connections: All connections, the new one among them.
        newcomer: The new one.
        limit: How many there may be.
    """
    excess = len(connections) - limit
    if excess <= 0:
        return True
    idle = [
        each
        for each in connections
        if isinstance(each, CountedConnection)
        and each is not newcomer
        and not each.has_request
    ]
    idle.sort(key=lambda each: each.last_byte)
    for each in idle[: max(excess, int(limit * _EVICTED))]:
        each.abort()
        connections.discard(each)
    return len(idle) >= excess


def close_slow(connections: Iterable[object], now: float) -> None:
    """Closes those of a server's connections whose clients are too slow.

    Args:
        connections: The connections.
        now: The event loop's time.
    """
    for each in list(connections):
        if isinstance(each, CountedConnection):
            each.check_time(now)
