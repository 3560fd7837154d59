"""One read of many tiny chunks or headers holds the event loop for a moment only."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import pytest
from max.serve.config import Settings
from uvicorn.server import ServerState

from mllama.server.arrival.bounded_http import MOST_EVENTS, MOST_LINES
from mllama.server.arrival.connection_pool import ConnectionLimits
from mllama.server.arrival.connections import LimitedConnection
from mllama.server.http_server import uvicorn_config
from mllama.server.routes import error_form

from .limited_server import GET, Application, run
from .test_connections import answer_to, refusal

CHUNKED = b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


class Transport(asyncio.Transport):
    """A transport whose reads are the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_paused = self.is_closed = False

    def write(self, data: Any) -> None:
        self.sent += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


class Connection:
    """A connection that parses in the test's event loop.

    Attributes:
        parsed: How many events were parsed at a time.
    """

    def __init__(self) -> None:
        config = uvicorn_config(
            Application().app, Settings(), form_of=error_form, tls=None
        )
        config.load()
        made: Any = config.http_protocol_class
        self.http: LimitedConnection = made(config, ServerState(), {})
        self.transport = Transport()
        self.http.connection_made(self.transport)
        self.parsed: list[int] = []
        handle, parse = self.http.handle_events, h11.Connection.next_event

        def handle_events() -> None:
            self.parsed.append(0)
            handle()

        def next_event(connection: h11.Connection) -> Any:
            self.parsed[-1] += 1
            return parse(connection)

        self.http.handle_events = handle_events
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(h11.Connection, "next_event", next_event)

    async def receive(self, data: bytes) -> None:
        """Receives one read, and waits until it is handled."""
        try:
            self.http.data_received(data)
            for _ in range(500):
                await asyncio.sleep(0)
            for task in list(self.http.tasks):
                await asyncio.wait_for(task, 20)
        finally:
            self.patch.undo()


def connected(data: bytes) -> Connection:
    async def test() -> Connection:
        connection = Connection()
        await connection.receive(data)
        return connection

    return asyncio.run(test())


def test_chunks_of_one_read_are_parsed_in_turns() -> None:
    chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
    connection = connected(CHUNKED + chunk * 2400 + LAST)
    assert connection.transport.sent.startswith(b"HTTP/1.1 200 ")
    assert connection.transport.sent.endswith(b"240000")
    assert max(connection.parsed) <= MOST_EVENTS
    assert len(connection.parsed) > 2400 // MOST_EVENTS
    assert not connection.transport.is_paused


def test_nothing_is_read_between_the_turns() -> None:
    async def test() -> None:
        connection = Connection()
        try:
            connection.http.data_received(CHUNKED + b"1\r\nx\r\n" * 1000)
            assert connection.transport.is_paused
            # The application asks for more in between.
            connection.http.flow.resume_reading()
            assert connection.transport.is_paused
            # What is read nevertheless comes behind it.
            connection.http.data_received(b"2\r\nyz\r\n" + LAST)
            for _ in range(50):
                await asyncio.sleep(0)
            assert not connection.transport.is_paused
            (task,) = connection.http.tasks or [None]
            if task is not None:
                await asyncio.wait_for(task, 20)
            assert connection.transport.sent.endswith(b"1002")
        finally:
            connection.patch.undo()

    asyncio.run(test())


def test_a_connection_that_is_lost_between_the_turns_parses_no_more() -> None:
    async def test() -> None:
        connection = Connection()
        try:
            connection.http.data_received(CHUNKED + b"1\r\nx\r\n" * 1000)
            connection.transport.close()
            connection.http.connection_lost(None)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(connection.parsed) == 1
        finally:
            connection.patch.undo()

    asyncio.run(test())


def test_a_body_of_tiny_chunks_is_refused() -> None:
    connection = connected(CHUNKED + b"1\r\nx\r\n" * 40_000)
    content = refusal(bytes(connection.transport.sent), 400)
    assert content["error"]["code"] == "chunks_too_small"
    assert connection.transport.is_closed
    assert sum(connection.parsed) < 5000


@pytest.mark.parametrize(
    ("before", "status", "code"),
    [
        (GET[:-2], 431, "headers_too_large"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", 400, "invalid_http"),
    ],
)
def test_a_block_of_many_lines_is_not_parsed(
    before: bytes, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    original = h11._readers._decode_header_lines

    def spy(lines: Any) -> Any:
        kept = list(lines)
        parsed.append(len(kept))
        return original(kept)

    monkeypatch.setattr(h11._readers, "_decode_header_lines", spy)
    connection = connected(before + b"a:\r\n" * 60_000 + b"\r\n")
    content = refusal(bytes(connection.transport.sent), status)
    assert content["error"]["code"] == code
    assert all(count <= MOST_LINES for count in parsed)


def test_many_small_requests_of_one_read_are_answered_in_order() -> None:
    async def test(port: int, application: Application) -> None:
        body = b"1\r\nx\r\n" * 300 + LAST
        last = GET[:-2] + b"Connection: close\r\n\r\n"
        answer = await answer_to(port, (CHUNKED + body) * 20 + last)
        assert answer.count(b"HTTP/1.1 200 ") == 21
        assert answer.count(b"\r\n\r\n300") == 20
        assert answer.endswith(b'"up"')

    run(test, ConnectionLimits())
