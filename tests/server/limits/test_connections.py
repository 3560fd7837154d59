"""Slow clients are cut off, and keep nobody else out."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import struct
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest

from mllama.server.arrival.connection_pool import ConnectionLimits
from mllama.server.arrival.shared_memory import LARGEST_TEXT
from mllama.utils.open_files import raise_open_file_limit

from .limited_server import GET, QUICK, Application, run, until

POST = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


class Received(asyncio.Protocol):
    """What a client gets.  A stream's reader would drop what it hasn't read of it when
    the connection is reset.
    """

    def __init__(self) -> None:
        self.answer = bytearray()
        self.is_answered = asyncio.Event()
        self.is_closed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.answer += data
        self.is_answered.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_answered.set()
        self.is_closed.set()


async def answer_to(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that the server sends until it closes the connection."""
    loop = asyncio.get_running_loop()
    transport, received = await loop.create_connection(Received, "127.0.0.1", port)
    for piece in pieces:
        # What is sent to a closed connection resets it.
        if received.is_answered.is_set():
            break
        transport.write(piece)
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(received.is_answered.wait(), pause)
    await asyncio.wait_for(received.is_closed.wait(), 20)
    transport.close()
    return bytes(received.answer)


def refusal(answer: bytes, status: int) -> Any:
    """The JSON of an answer that ends its connection."""
    head, _, content = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first.startswith(f"HTTP/1.1 {status} ")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"] == headers["request-id"] != ""
    assert int(headers["content-length"]) == len(content)
    return json.loads(content)


async def health(port: int) -> None:
    """Checks that the server says that it is up."""
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"http://127.0.0.1:{port}/health", timeout=20)
    assert response.json() == "up"


@pytest.mark.parametrize(
    ("pieces", "pause"),
    [
        ([GET[:20]], 0.0),
        ([GET[place : place + 1] for place in range(len(GET))], 0.2),
        ([b"GET /health HTTP/1.1\r\n", *[b"x: y\r\n"] * 20], 0.3),
    ],
    ids=["quiet", "byte by byte", "endless"],
)
def test_headers_must_arrive_in_time(pieces: list[bytes], pause: float) -> None:
    async def test(port: int, application: Application) -> None:
        answer = await answer_to(port, *pieces, pause=pause)
        error = refusal(answer, 408)["error"]
        assert error["message"] == "The request took too long to arrive."

    run(test)


def test_a_connection_without_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAX_SERVE_HTTP_KEEPALIVE_TIMEOUT_S", "1")

    async def test(port: int, application: Application) -> None:
        assert await answer_to(port) == b""

    run(test)


@pytest.mark.parametrize("before", [b"", GET])
def test_headers_that_never_end_are_too_large(before: bytes) -> None:
    async def test(port: int, application: Application) -> None:
        answer = await answer_to(port, before + GET[:-2] + b"x: " + b"y" * 300_000)
        *answered, refused = answer.split(b"HTTP/1.1 ")[1:]
        assert len(answered) == bool(before)
        error = refusal(b"HTTP/1.1 " + refused, 431)["error"]
        assert error["message"] == "The path and headers are too large."

    run(test)


def test_headers_may_arrive_in_pieces() -> None:
    async def test(port: int, application: Application) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET[:-2] + b"x: " + b"y" * 40_000)
        await asyncio.sleep(0.1)
        writer.write(b"y" * 20_000 + b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b'"up"'), 5)
        assert answer.startswith(b"HTTP/1.1 200 ")
        writer.close()

    run(test)


@pytest.mark.parametrize(
    ("pieces", "pause"),
    [
        ([POST], 0.0),
        ([POST, *[b"x" * 100] * 40], 0.2),
        ([POST.replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked")], 0),
    ],
    ids=["quiet", "slow", "chunked without end"],
)
def test_bodies_must_arrive_in_time(pieces: list[bytes], pause: float) -> None:
    async def test(port: int, application: Application) -> None:
        answer = await answer_to(port, *pieces, pause=pause)
        error = refusal(answer, 408)["error"]
        assert error["message"] == "The body took too long to arrive."
        await asyncio.sleep(0.1)
        assert application.ended == ["disconnected"]

    run(test)


OLLAMA = b"POST /api/read HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
MESSAGES = b"POST /v1/messages?beta=true HTTP/1.1\r\nx-request-id: mine\r\n"
MODELS = b"GET /v1/models HTTP/1.1\r\nAnthropic-Version: 2023-06-01\r\n"
LONG = b"x: " + b"y" * 100_000


def is_ollamas(content: Any) -> bool:
    return list(content) == ["error"] and isinstance(content["error"], str)


def is_anthropics(content: Any) -> bool:
    return content["type"] == "error" and content["request_id"] != ""


def is_openais(content: Any) -> bool:
    return set(content["error"]) == {"message", "type", "param", "code"}


FORMS = [
    (OLLAMA, 408, is_ollamas),
    (OLLAMA + b"Content-Length: 9\r\n\r\n", 408, is_ollamas),
    (MESSAGES, 408, is_anthropics),
    (MODELS, 408, is_anthropics),
    (GET[:-2], 408, is_openais),
    (b"POST /api/read", 408, is_openais),
    (OLLAMA + LONG, 431, is_ollamas),
    (MESSAGES + LONG, 431, is_anthropics),
    (GET[:-2] + LONG, 431, is_openais),
    (b"GET /api/tags?" + LONG, 431, is_ollamas),
    (OLLAMA + b"a line\r\n\r\n", 400, is_ollamas),
    (OLLAMA + CHUNKED + b"zz\r\n", 400, is_ollamas),
    (MESSAGES + b"a line\r\n\r\n", 400, is_anthropics),
    (GET + MESSAGES + b"a line\r\n\r\n", 400, is_anthropics),
    (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, is_openais),
    (b"GET /\xff HTTP/1.1\r\n\r\n", 400, is_openais),
]
"""What a client sends, the status of the answer, and its form."""


def test_errors_have_the_form_of_the_api() -> None:
    async def test(port: int, application: Application) -> None:
        answers = await asyncio.gather(*(answer_to(port, sent) for sent, _, _ in FORMS))
        for (sent, status, is_right), answer in zip(FORMS, answers, strict=True):
            content = refusal(answer[answer.rindex(b"HTTP/1.1 ") :], status)
            assert is_right(content), (sent[:100], content)
            if MESSAGES in sent:
                assert b"\r\nx-request-id: mine\r\n" in answer
                assert content["request_id"] == "mine"

    run(test)


def test_slow_bodies_make_room_for_others() -> None:
    """As four bodies of 256 MiB and a photo, in the memory of a server."""
    head = (
        b"POST /read HTTP/1.1\r\nHost: x\r\nx-client: %d\r\nContent-Length: %d\r\n\r\n"
    )
    slow = [b"x" * 70_000, *[b"x" * 3_000] * 60]

    async def test(port: int, application: Application) -> None:
        bodies = [
            asyncio.ensure_future(
                answer_to(port, head % (client, 4_000_000), *slow, pause=0.2)
            )
            for client in (1, 2)
        ]
        while application.memory.bodies.held < 8_000_000:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2.5)
        # While nobody waits, they have more time.
        assert not any(body.done() for body in bodies)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head % (3, 2_000_000) + b"x" * 2_000_000)
        answer = await asyncio.wait_for(reader.readuntil(b"2000000"), 12)
        assert answer.startswith(b"HTTP/1.1 200 ")
        writer.close()
        for body in bodies:
            error = refusal(await body, 408)["error"]
            assert "while others waited" in error["message"]

    # Of what else ends a slow body, there is enough.
    run(test, replace(QUICK, body_pause=30, body_grace=30))


def test_a_large_body_may_take_longer() -> None:
    async def test(port: int, application: Application) -> None:
        pieces = [POST, *[b"x" * 20_000] * 50]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.08)
        answer = await asyncio.wait_for(reader.readuntil(b"1000000"), 60)
        assert answer.startswith(b"HTTP/1.1 200 ")
        writer.close()

    # A busy machine may make a pause of any of these.
    run(test, replace(QUICK, body_pause=30))


def test_the_rest_of_a_refused_body_must_end_too() -> None:
    async def test(port: int, application: Application) -> None:
        pieces = [POST.replace(b"/read", b"/nothing"), *[b"x"] * 50]
        started = time.monotonic()
        answer = await answer_to(port, *pieces, pause=0.2)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert time.monotonic() - started < 4

    run(test)


def test_what_is_no_http_in_a_body_is_refused_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(port: int, application: Application) -> None:
        head = POST.replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked")
        answer = await answer_to(port, head + b"zz\r\nabc\r\n")
        assert refusal(answer, 400)["error"]["code"] == "invalid_http"
        assert answer.count(b"HTTP/1.1") == 1

    run(test)
    assert not [each for each in caplog.records if each.exc_info]


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def test(port: int, application: Application) -> None:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(GET.replace(b"/health", b"/stream"))
        sent = -1
        while sent != application.sent or not sent:
            sent = application.sent
            await asyncio.sleep(0.1)
            # What nobody reads isn't made.
            assert application.sent < 32 << 20
        await until(lambda: application.ended == ["stream"])
        slow.close()

    server = run(test)
    assert not server.server_state.connections


def test_a_client_that_closes_its_sending_side_has_left() -> None:
    async def test(port: int, application: Application) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"/health", b"/stream"))
        await reader.readexactly(100)
        writer.write_eof()
        while not application.ended:
            await asyncio.sleep(0.01)
        assert application.ended == ["stream"]
        writer.close()

    run(test)


@pytest.mark.parametrize(
    ("sent", "length", "resets"),
    [
        (66_000, 2_000_000, False),
        (66_000, 2_000_000, True),
        (110_000, 110_000, False),
        (110_000, 110_000, True),
        # The end of a connection that is closed would come after all of this.
        (600_000, 2_000_000, True),
    ],
)
def test_a_client_that_leaves_while_it_waits_for_memory_frees_its_place(
    sent: int, length: int, resets: bool
) -> None:
    # A body waits from 64 KB on, and little more of it is read meanwhile.
    async def test(port: int, application: Application) -> None:
        memory = application.memory
        bodies = memory.bodies if length > LARGEST_TEXT else memory.texts
        most = bodies.most_each
        leases = [await bodies.acquire(most, each) for each in ("one", "another")]
        head = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        client = socket.create_connection(("127.0.0.1", port))
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, head % length)
        # The rest arrives at once, and is all of a small body.
        await asyncio.sleep(0.2)
        await loop.sock_sendall(client, b"x" * sent)
        await until(lambda: bodies.waiting == 1)
        await asyncio.sleep(0.2)
        if resets:
            linger = struct.pack("ii", 1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.close()
        await until(lambda: bodies.waiting == 0)
        await until(lambda: application.ended == ["disconnected"])
        await until(lambda: not application.connections)
        for lease in leases:
            lease.release()
        assert bodies.held == 0

    run(test)


def test_quiet_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is made by closing them: their time isn't over for long."""
    monkeypatch.setenv("MAX_SERVE_HTTP_KEEPALIVE_TIMEOUT_S", "300")

    async def test(port: int, application: Application) -> None:
        slow = []
        for number in range(100):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET[: number % 20])
            slow.append((reader, writer))
            if number % 20 == 0:
                await health(port)
        await until(lambda: application.connections <= QUICK.connections)
        # The first ones were closed for the later ones.
        with suppress(ConnectionError):
            assert await asyncio.wait_for(slow[0][0].read(), 20) == b""
        await health(port)
        for _, writer in slow:
            writer.close()

    run(test, replace(QUICK, head_seconds=300))


def test_requests_that_are_answered_are_not_closed_for_others() -> None:
    async def test(port: int, application: Application) -> None:
        streams = []
        for _ in range(QUICK.connections):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET.replace(b"/health", b"/stream"))
            await reader.readexactly(100)
            streams.append((reader, writer))
        answer = await answer_to(port, GET)
        assert refusal(answer, 503)["error"]["code"] == "service_unavailable"
        assert b"retry-after: 1\r\n" in answer
        for reader, writer in streams:
            await reader.readexactly(65536)
            writer.close()
        await until(lambda: len(application.ended) == QUICK.connections)
        await health(port)

    # Those that aren't read yet must not be cut off.
    run(test, replace(QUICK, write_seconds=300))


def are_descriptors_used_up() -> bool:
    try:
        os.close(os.dup(0))
    except OSError:
        return True
    return False


def test_a_server_recovers_from_used_up_descriptors() -> None:
    async def test(port: int, application: Application) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        clients = [socket.socket() for _ in range(80)]
        used = max(each.fileno() for each in clients)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, hard))
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
            await until(are_descriptors_used_up)
            # What is accepted for a moment and closed is none of the server's.
            busy = time.thread_time()
            await asyncio.sleep(1)
            # It doesn't try again and again.
            assert time.thread_time() - busy < 0.3
            for client in clients:
                client.close()
            await until(lambda: not application.connections)
            await health(port)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(test, ConnectionLimits())


def test_the_limit_of_connections_leaves_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        assert ConnectionLimits.of_this_process().connections == 872
        raise_open_file_limit()
        raised: Any = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == (min(hard, 65536) if hard > 0 else 65536, hard)
        assert ConnectionLimits.of_this_process().connections <= 4096
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
