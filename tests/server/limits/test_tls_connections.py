"""Handshakes that don't end are bounded in time and number, as connections are."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import httpx
import pytest
import trustme

from mllama.server.http_server import TlsFiles

from .limited_server import GET, QUICK, Application, run, until

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How the first message of a client begins."""

PATIENT = replace(QUICK, connections=1000, handshake_seconds=300, head_seconds=300)


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


Health = Callable[[int], Awaitable[None]]


@pytest.fixture
def health(context: ssl.SSLContext) -> Health:
    """Checks that the server says that it is up."""

    async def ask(port: int) -> None:
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            url = f"https://127.0.0.1:{port}/health"
            response = await client.get(url, timeout=20)
        assert response.json() == "up"

    return ask


@asynccontextmanager
async def half_open(
    port: int, number: int
) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """Connections that send nothing, or a part of their first message."""
    opened = []
    for each in range(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO[: each % len(HELLO)])
        opened.append((reader, writer))
    try:
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


def test_handshakes_count_and_must_end_in_time(tls: TlsFiles, health: Health) -> None:
    async def test(port: int, application: Application) -> None:
        started = asyncio.get_running_loop().time()
        async with half_open(port, 600) as opened:
            await until(lambda: application.connections == 600)
            await health(port)
            for reader, _ in opened:
                with suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), 30) == b""
            # None was closed to make room.
            assert asyncio.get_running_loop().time() - started > 5
            await until(lambda: not application.connections)
            await health(port)

    run(test, replace(PATIENT, handshake_seconds=5), tls)


def test_handshakes_that_never_end_keep_nobody_out(
    tls: TlsFiles, health: Health
) -> None:
    async def test(port: int, application: Application) -> None:
        async with half_open(port, 600) as opened:
            await until(lambda: application.connections <= QUICK.connections)
            await health(port)
            # The first ones were closed for the later ones.
            with suppress(ConnectionError):
                assert await asyncio.wait_for(opened[0][0].read(), 20) == b""
            assert application.connections <= QUICK.connections

    run(test, replace(PATIENT, connections=QUICK.connections), tls)


def test_who_is_too_many_is_told_so(tls: TlsFiles, context: ssl.SSLContext) -> None:
    async def connect(port: int, sent: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writers.append(writer)
        writer.write(sent)
        return reader

    writers: list[asyncio.StreamWriter] = []

    async def test(port: int, application: Application) -> None:
        for _ in range(QUICK.connections):
            stream = await connect(port, GET.replace(b"/health", b"/stream"))
            await stream.readexactly(100)
        async with half_open(port, 50):
            await until(lambda: application.connections == QUICK.connections + 1)
            answer = await (await connect(port, GET)).read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b'"code": "service_unavailable"' in answer
        for writer in writers:
            writer.close()

    limits = replace(PATIENT, connections=QUICK.connections, write_seconds=300)
    run(test, limits, tls)


def test_a_request_may_come_with_the_end_of_the_handshake(
    tls: TlsFiles, context: ssl.SSLContext
) -> None:
    """A client may send it in one piece with the last message of its handshake."""

    def ask(port: int, *, is_last: bool) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port), 20) as plain:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
            client.write(GET)
            plain.sendall(outgoing.read())
            if is_last:
                plain.shutdown(socket.SHUT_WR)
            answer = b""
            while b'"up"' not in answer:
                try:
                    answer += client.read()
                except ssl.SSLWantReadError:
                    received = plain.recv(65536)
                    if not received:
                        break
                    incoming.write(received)
        return answer

    async def test(port: int, application: Application) -> None:
        for _ in range(20):
            answer = await asyncio.to_thread(ask, port, is_last=False)
            assert answer.startswith(b"HTTP/1.1 200 ")
        # Who closes its sending side has left, perhaps after it has its answer.
        await asyncio.to_thread(ask, port, is_last=True)
        await until(lambda: not application.connections)

    run(test, PATIENT, tls)


@pytest.mark.parametrize("sent", [GET, b"\x00" * 100, HELLO + b"\xff" * 600])
def test_what_is_no_tls_is_closed(
    sent: bytes, tls: TlsFiles, health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(port: int, application: Application) -> None:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            with suppress(ConnectionError):
                assert b"HTTP" not in await asyncio.wait_for(reader.read(), 20)
            writer.close()
        # And who leaves at once.
        socket.create_connection(("127.0.0.1", port)).close()
        await health(port)
        await until(lambda: not application.connections)

    with caplog.at_level(logging.INFO):
        run(test, PATIENT, tls)
    assert not [each for each in caplog.records if each.exc_info]


def test_a_client_that_does_not_say_goodbye_is_cut_off(
    tls: TlsFiles, context: ssl.SSLContext
) -> None:
    """TLS waits for the other side's last message."""

    async def test(port: int, application: Application) -> None:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", port)) as plain:
            secured = await asyncio.to_thread(
                context.wrap_socket, plain, server_hostname="localhost"
            )
            request = GET.replace(b"Host", b"Connection: close\r\nHost")
            await asyncio.to_thread(secured.sendall, request)
            await until(lambda: application.connections == 1)
            started = loop.time()
            await until(lambda: not application.connections)
            assert loop.time() - started < 15
            secured.close()

    run(test, PATIENT, tls)


def test_the_end_of_a_server_waits_for_no_handshake(tls: TlsFiles) -> None:
    async def test(port: int, application: Application) -> None:
        async with half_open(port, 20):
            await until(lambda: application.connections == 20)
            assert application.server is not None
            application.server.should_exit = True
            await until(lambda: not application.connections, 10)

    run(test, PATIENT, tls)
