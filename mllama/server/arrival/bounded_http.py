"""HTTP/1.1 whose parsing holds the event loop for a few milliseconds at a time.

One read of a connection may have 250 KB, all of it chunks of a byte, or headers of two.
"""

from __future__ import annotations

from typing import Any, Final

import h11
from h11._receivebuffer import ReceiveBuffer

MOST_EVENTS: Final = 256
"""Events that are parsed before others have a turn."""

MOST_LINES: Final = 1024
"""Lines of a head, or of what follows a body's chunks."""

_FEW_CHUNKS: Final = 4096
_LEAST_CHUNK_BYTES: Final = 64
"""What the chunks of a body must have on average, once there are more than a few."""


class TinyChunksError(h11.RemoteProtocolError):
    """A body comes in too many tiny chunks."""


class _BoundedBuffer(ReceiveBuffer):
    """What has been received, of which a block of too many lines isn't parsed."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        lines = super().maybe_extract_lines()
        if lines is not None and len(lines) > MOST_LINES:
            raise h11.RemoteProtocolError("too many lines", error_status_hint=431)
        return lines


class BoundedHttp(h11.Connection):
    """The server's side of a connection.

    Attributes:
        has_more: Whether what has arrived may have events that had no turn yet.

    Args:
        max_incomplete_bytes: The longest head that arrives in pieces.
    """

    def __init__(self, max_incomplete_bytes: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_bytes)
        # h11's limit is of events that are incomplete.
        self._receive_buffer = _BoundedBuffer()
        self._turns = 0
        self._chunks = self._chunk_bytes = 0
        self.has_more = False

    def begin_turn(self) -> None:
        """Lets some events be parsed."""
        self._turns = MOST_EVENTS
        self.has_more = False

    def next_event(self) -> Any:
        """Returns the next event; none any more at the end of the turn.

        Raises:
            RemoteProtocolError: If the client doesn't speak HTTP, or too finely.
        """
        if not self._turns:
            self.has_more = True
            return h11.NEED_DATA
        self._turns -= 1
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._chunk_bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._chunk_bytes += len(event.data)
            if (
                self._chunks > _FEW_CHUNKS
                and self._chunk_bytes < _LEAST_CHUNK_BYTES * self._chunks
            ):
                raise TinyChunksError("too many tiny chunks", error_status_hint=400)
        return event
