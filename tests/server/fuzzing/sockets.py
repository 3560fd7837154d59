"""Sends requests to a running server, byte by byte as they are."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import Final

from .exchange import Answer, Exchange

SECONDS: Final = 60
"""How long an answer may take on a busy machine."""


def send(exchange: Exchange, port: int) -> Answer:
    """Returns the answer to a request, on a connection of its own.

    Raises:
        OSError: If there is no answer, or none in time.
    """
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        head = [f"{exchange.method} {exchange.path} HTTP/1.1"]
        head += [f"{name}: {value}" for name, value in exchange.headers]
        head += [f"content-length: {len(exchange.body)}", "connection: close", "", ""]
        data = "\r\n".join(head).encode("latin-1", "replace")
        # A server may refuse a request before it has read the body.
        with contextlib.suppress(ConnectionError):
            connection.sendall(data + exchange.body[: exchange.sent_bytes])
        if exchange.leaves_after in (-1, 0):
            return Answer(0, is_whole=False)
        return _answer(connection, exchange)


def _answer(connection: socket.socket, exchange: Exchange) -> Answer:
    response = http.client.HTTPResponse(connection, method=exchange.method)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if exchange.leaves_after is None:
            return Answer(response.status, headers, response.read())
        parts = [response.read1(400) for _ in range(exchange.leaves_after)]
        return Answer(response.status, headers, b"".join(parts), is_whole=False)
    except http.client.HTTPException as error:
        raise ConnectionError(f"no whole answer: {error!r}") from error
    finally:
        response.close()
