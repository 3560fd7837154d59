"""What isn't HTTP, or is two messages in one, gets a 4xx and no second answer."""

from __future__ import annotations

import re

import pytest

from .limited_server import Application, run
from .test_connections import answer_to

HEAD = b"POST /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
BODY = b'{"a": 1}'
CHUNK = b"8\r\n" + BODY + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: 8\r\n"
LAST = b"0\r\n\r\n"


def with_length(length: bytes) -> bytes:
    return HEAD + b"Content-Length: " + length + b"\r\n\r\n" + BODY


ANSWERED = {
    "a length": with_length(b"8"),
    "the same length twice": HEAD + LENGTH + LENGTH + b"\r\n" + BODY,
    "chunks": HEAD + CHUNKED + CHUNK + LAST,
    "bytes as chunks": HEAD
    + CHUNKED
    + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
    + LAST,
    "an extension": HEAD + CHUNKED + b"8;a=b\r\n" + BODY + b"\r\n" + LAST,
    "trailers": HEAD + CHUNKED + CHUNK + b"0\r\nX: y\r\n\r\n",
    "HTTP/1.0": (HEAD + LENGTH + b"\r\n").replace(b"HTTP/1.1", b"HTTP/1.0") + BODY,
    "bytes behind the body": with_length(b"8") + b"GARBAGE",
}
REFUSED = {
    "two lengths": HEAD + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "a negative length": with_length(b"-1"),
    "a word as length": with_length(b"abc"),
    "a length of 21 digits": with_length(b"9" * 21),
    "a chunk without a size": HEAD + CHUNKED + b"zz\r\nabc\r\n",
    "a chunk of 21 digits": HEAD + CHUNKED + b"f" * 21 + b"\r\nabc",
    "an unknown transfer encoding": HEAD
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n"
    + CHUNK
    + LAST,
    "a zero in a header": HEAD + b"X: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "a space in a header's name": HEAD + b"X y: a\r\n" + LENGTH + b"\r\n" + BODY,
    "no host": b"POST /read HTTP/1.1\r\n" + LENGTH + b"\r\n" + BODY,
    "two hosts": HEAD + b"Host: y\r\n" + LENGTH + b"\r\n" + BODY,
    "garbage": bytes(range(256)),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
}
SMUGGLED = HEAD + LENGTH + CHUNKED + LAST + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def statuses(*pieces: bytes) -> list[int]:
    """Returns the statuses of all answers on a connection until it is closed."""
    found: list[int] = []

    async def test(port: int, application: Application) -> None:
        answer = await answer_to(port, *pieces, pause=0.01)
        found.extend(map(int, re.findall(rb"HTTP/1\.1 (\d+)", answer)))
        # The server goes on.
        good = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert b"200 OK" in await answer_to(port, good, pause=0.01)

    run(test)
    return found


@pytest.mark.parametrize("name", ANSWERED)
def test_bodies_of_every_form_are_read(name: str) -> None:
    assert statuses(ANSWERED[name]) == [200]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_http_gets_one_answer(name: str) -> None:
    (status,) = statuses(REFUSED[name])
    assert 400 <= status < 500


def test_a_request_hidden_behind_two_lengths_is_not_answered() -> None:
    assert len(statuses(SMUGGLED)) == 1


def test_another_protocol_is_no_request() -> None:
    found = statuses(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert found
    assert all(400 <= status < 500 for status in found)


def test_requests_on_one_connection_are_answered_in_order() -> None:
    get = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    assert statuses(get * 20 + with_length(b"8")) == [200] * 21
