"""Connections over TLS, which count from the moment when they are accepted.

An event loop that gets the certificate with its sockets tells nobody of a connection
before its handshake is done, so that a client which never ends it would count nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from mllama.server.arrival.connection_pool import (
    ConnectionLimits,
    CountedConnection,
    has_room,
)
from mllama.server.arrival.connections import LimitedConnection


class TlsConnection(CountedConnection, asyncio.Protocol):
    """A connection until its handshake is done; HTTP's takes its place then."""

    context: ssl.SSLContext
    http: type[LimitedConnection]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._new_http = partial(self.http, config, server_state, app_state, self._loop)
        self._connections: set[Any] = server_state.connections
        self._accepted = self._loop.time()
        self._socket: socket.socket | None = None
        self._handshake: asyncio.Task[None] | None = None

    @property
    def limits(self) -> ConnectionLimits:
        """Returns the limits of the connection."""
        return self.http.limits

    @property
    def has_request(self) -> bool:
        """Returns False: nothing of a request has been read."""
        return False

    @property
    def last_byte(self) -> float:
        """Returns when the connection was accepted."""
        return self._accepted

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Begins the handshake."""
        plain = transport.get_extra_info("socket")
        try:
            # A plain transport of uvloop can't be told to read nothing yet, and what
            # it reads is the handshake's.  So another one gets the connection.
            number = os.dup(plain.fileno())
            try:
                self._socket = socket.socket(fileno=number)
            except OSError:
                os.close(number)
                raise
        except OSError:
            # Open files are used up.
            return
        finally:
            transport.abort()
        self._socket.setblocking(False)
        self._connections.add(self)
        # Where there is no room, HTTP's connection says so.  Until then the next one
        # makes room by closing this one.
        has_room(self._connections, self, self.limits.connections)
        self._handshake = self._loop.create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        accepted, self._socket = self._socket, None
        assert accepted is not None
        http = self._new_http()
        http.handshake = self
        # Fails if the client speaks no TLS, has left, or takes too long.
        with contextlib.suppress(OSError):
            try:
                await self._loop.connect_accepted_socket(
                    lambda: http,
                    accepted,
                    ssl=self.context,
                    ssl_handshake_timeout=self.limits.handshake_seconds,
                )
            finally:
                self._connections.discard(self)

    def check_time(self, now: float) -> None:
        """Does nothing: the handshake has its own limit."""

    def abort(self) -> None:
        """Closes the connection at once, and ends its handshake."""
        if self._handshake is not None:
            self._handshake.cancel()
        if self._socket is not None:
            self._socket.close()

    def shutdown(self) -> None:
        """Ends the connection with the server."""
        self.abort()
        self._connections.discard(self)


def tls_connections(
    http: type[LimitedConnection], context: ssl.SSLContext
) -> type[TlsConnection]:
    """Returns the class of connections over TLS.

    Args:
        http: The class of connections after the handshake.
        context: The certificate.
    """
    return type("TlsConnection", (TlsConnection,), {"http": http, "context": context})
