"""Connections with limits in time, which uvicorn's have only between two requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import sys
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mllama.server.arrival.bounded_http import BoundedHttp, TinyChunksError
from mllama.server.arrival.connection_errors import (
    BODY_TIMEOUT,
    BODY_TOO_SLOW,
    HEAD_TOO_LARGE,
    NO_HTTP,
    REQUEST_TIMEOUT,
    TINY_CHUNKS,
    TOO_MANY_CONNECTIONS,
    FormOf,
    refusal,
    scope_of_head,
)
from mllama.server.arrival.connection_pool import (
    ConnectionLimits,
    CountedConnection,
    has_room,
)
from mllama.server.arrival.held_flow import HeldFlow
from mllama.server.arrival.request_head import MAX_HEAD_BYTES
from mllama.server.arrival.shared_memory import known_memory
from mllama.server.errors import ErrorReport

logger = logging.getLogger("mllama")

_NOTED_HEAD_BYTES: Final = 8192
"""What is noted of a head, for the form of an error."""


class LimitedConnection(CountedConnection, H11Protocol):
    """A connection whose client must send and read within limits of time.

    The server calls :meth:`check_time` now and then.

    Attributes:
        limits: The limits.
        form_of: Returns the form of a request's errors.
        handshake: What was counted in place of this connection until now.
    """

    limits: ConnectionLimits
    form_of: FormOf
    handshake: object = None

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.conn: BoundedHttp = BoundedHttp(
            self.config.h11_max_incomplete_event_size or MAX_HEAD_BYTES
        )
        self._is_next_turn_due = False
        self._last_byte = self.loop.time()
        self._head = b""
        self._head_since: float | None = None
        self._last_check = self._last_byte
        self._body_of: object = None
        self._body_seconds = 0.0
        self._body_pause = 0.0
        self._body_bytes = 0
        self._unread_since: float | None = None
        self._closing_since: float | None = None

    @property
    def has_request(self) -> bool:
        """Returns True while a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def last_byte(self) -> float:
        """Returns when the connection was made, or something last arrived."""
        return self._last_byte

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Makes room for the connection if there are too many."""
        self.connections.discard(self.handshake)
        self.handshake = None
        super().connection_made(transport)
        self.flow: HeldFlow = HeldFlow(transport)
        if not has_room(self.connections, self, self.limits.connections):
            # Every other one has a request that is being answered.
            self._close_with(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets a request whose client has left wait for no memory."""
        super().connection_lost(exc)
        known: Any = self.scope
        share = known_memory(known) if known is not None else None
        if share is not None:
            share.leave()

    def data_received(self, data: bytes) -> None:
        """Notes that something arrived."""
        self._last_byte = self.loop.time()
        self._body_pause = 0.0
        self._body_bytes += len(data)
        super().data_received(data)
        if self.has_request:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = self._last_byte

    def handle_events(self) -> None:
        """Handles what has arrived, and notes the head of a request that begins."""
        if self.conn.their_state is h11.IDLE:
            # h11 drops a head that it can't read.
            self._head = self.conn.trailing_data[0][:_NOTED_HEAD_BYTES]
        self.conn.begin_turn()
        super().handle_events()
        if self.has_request:
            self._head = b""
            self._head_since = None
        if self.transport.is_closing():
            return
        if not self.conn.has_more:
            self.flow.release()
            return
        # Nothing more is read before all of this is parsed.
        self.flow.hold()
        if not self._is_next_turn_due:
            self._is_next_turn_due = True
            self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Handles more of what has arrived."""
        self._is_next_turn_due = False
        if self.conn.has_more and not self.transport.is_closing():
            self.handle_events()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, also in the middle of a body."""
        # uvicorn calls this while it handles h11's error.
        error = sys.exc_info()[1]
        is_too_large = (
            isinstance(error, h11.RemoteProtocolError)
            and error.error_status_hint == 431
            and not self.has_request
        )
        if isinstance(error, TinyChunksError):
            self._close_with(TINY_CHUNKS)
        else:
            self._close_with(HEAD_TOO_LARGE if is_too_large else NO_HTTP)

    def _unsupported_upgrade_warning(self) -> None:
        """Says nothing: requests to upgrade are answered as others."""

    def pause_writing(self) -> None:
        """Notes that the client doesn't read."""
        super().pause_writing()
        self._unread_since = self.loop.time()

    def resume_writing(self) -> None:
        """Notes that the client has read."""
        super().resume_writing()
        self._unread_since = None

    def check_time(self, now: float) -> None:
        """Closes the connection if its client is too slow.

        Args:
            now: The event loop's time.
        """
        elapsed, self._last_check = now - self._last_check, now
        if (
            self._unread_since is not None
            and now - self._unread_since > self.limits.write_seconds
        ):
            # Closing would wait for the client to read what there is.
            logger.info("closed a connection whose client doesn't read its answer")
            self.transport.abort()
        elif self.transport.is_closing():
            # It ends when the client has read the rest, and said goodbye over TLS.
            if self._closing_since is None:
                self._closing_since = now
            elif now - self._closing_since > self.limits.write_seconds:
                self.transport.abort()
        elif not self.has_request:
            if (
                self.cycle is None
                and self._head_since is None
                and now - self._last_byte > self.timeout_keep_alive
            ):
                # uvicorn counts from the end of an answer only.
                self.transport.close()
                return
            if self._head_since is None and self.conn.their_state is h11.SEND_BODY:
                # The request was answered before the end of its body.
                self._head_since = now
            if (
                self._head_since is not None
                and now - self._head_since > self.limits.head_seconds
            ):
                self._close_with(REQUEST_TIMEOUT)
        # Reading stays paused, too, when all of a large body has arrived at once.
        elif self.cycle.more_body or self.flow.read_paused:
            self._check_body(elapsed)

    def _check_body(self, elapsed: float) -> None:
        if self._body_of is not self.cycle:
            self._body_of = self.cycle
            self._body_seconds = self._body_pause = 0.0
            self._body_bytes = 0
        # What the server doesn't want to read yet isn't the client's fault.
        if self.flow.read_paused:
            # Who reads nothing isn't told by the loop that the client has left.
            if _has_left(self.transport):
                self.transport.abort()
            return
        if self.cycle.waiting_for_100_continue:
            return
        self._body_seconds += elapsed
        self._body_pause += elapsed
        allowed = self.limits.body_grace + self._body_bytes / self.limits.body_rate
        if self._body_pause > self.limits.body_pause or self._body_seconds > allowed:
            self._close_with(BODY_TIMEOUT)
            return
        allowed = (
            self.limits.awaited_grace + self._body_bytes / self.limits.awaited_rate
        )
        if self._body_seconds > allowed and self._is_awaited:
            self._close_with(BODY_TOO_SLOW)

    def abort(self) -> None:
        """Closes the connection at once."""
        self.transport.abort()

    @property
    def _is_awaited(self) -> bool:
        """Returns True if others wait for memory that is kept for the body."""
        known: Any = self.scope
        share = known_memory(known)
        return share is not None and share.is_body_awaited

    def _close_with(self, report: ErrorReport) -> None:
        """Closes the connection, and says why if no answer has begun."""
        # The type of uvicorn's scope is narrower than Starlette's.
        known: Any = self.scope
        scope = known if self.has_request else scope_of_head(self._head)
        if self.has_request:
            # The application must not answer once more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with contextlib.suppress(h11.LocalProtocolError):
                for event in refusal(report, scope, self.form_of):
                    self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _has_left(transport: asyncio.BaseTransport) -> bool:
    """Returns True if a connection's other end is closed, whatever it has sent."""
    poll = select.poll()
    # Linux alone tells of it while something is unread.
    poll.register(
        transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0)
    )
    return bool(poll.poll(0))


def limited_connections(
    limits: ConnectionLimits, form_of: FormOf
) -> type[LimitedConnection]:
    """Returns the class of connections with given limits.

    Args:
        limits: The limits.
        form_of: Returns the form of a request's errors.
    """
    attributes = {"limits": limits, "form_of": staticmethod(form_of)}
    return type("LimitedConnection", (LimitedConnection,), attributes)
