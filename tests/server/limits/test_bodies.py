"""What a body may be is checked before it is read, and read once."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mllama.errors import EngineOverloadedError
from mllama.server.arrival.reading import read_body
from mllama.server.arrival.request_head import RequestHeadMiddleware
from mllama.server.arrival.shared_memory import (
    RequestMemory,
    SharedMemory,
    SharedMemoryMiddleware,
)
from mllama.server.bodies.parsing import json_steps, parse_json
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.bodies.schema import Body
from mllama.server.routes import error_form
from tests.server.dialects.in_process import InProcessServer

USER = {"role": "user", "content": "Hi"}
BODY = {"model": "served", "messages": [USER]}
CHAT, MESSAGES, OLLAMA = "/v1/chat/completions", "/v1/messages", "/api/chat"


def message_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.fixture(scope="module")
def server() -> InProcessServer:
    return InProcessServer()


@pytest.mark.parametrize("path", [CHAT, MESSAGES, OLLAMA, "/tokenize"])
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Encoding": "gzip"}, "the encoding 'gzip'"),
        ({"Content-Encoding": "br, gzip"}, "the encoding 'br, gzip'"),
        ({"Content-Type": "application/json; charset=utf-16"}, "charset 'utf-16'"),
        ({"Content-Type": 'text/plain; charset="Latin1"'}, "charset 'latin1'"),
    ],
)
def test_other_encodings_are_refused(
    server: InProcessServer, path: str, headers: Any, message: str
) -> None:
    content = gzip.compress(json.dumps(BODY).encode())
    response = server.request("POST", path, content=content, headers=headers)
    assert response.status_code == 415
    assert message in message_of(response)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=UTF-8", "text/plain; charset=us-ascii", "x"]
)
def test_utf8_by_any_name_is_read(server: InProcessServer, kind: str) -> None:
    response = server.request(
        "POST",
        CHAT,
        content=json.dumps(BODY).encode(),
        headers={"Content-Type": kind, "Content-Encoding": "identity"},
    )
    assert response.status_code == 200


@pytest.mark.parametrize("path", [CHAT, MESSAGES, OLLAMA])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"model": 1, "messages": [], "model": 2}', "the key 'model' twice"),
        (b'{"a": {"b": [{"c": 1, "c": 1}]}}', "the key 'c' twice"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": Infinity}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'{"a": "\\udc00\\ud800"}', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": "\xed\xa0\x80"}', "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
        (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", "200 levels"),
        (b'{"a": ' * 24_000 + b"1" + b"}" * 24_000, "200 levels"),
        (b'{"a": "b', "not valid JSON"),
        (b"[]", "must be a JSON object"),
    ],
)
def test_damaged_json_is_refused(
    server: InProcessServer, path: str, body: bytes, message: str
) -> None:
    response = server.post(path, body)
    assert response.status_code == 400
    assert message in message_of(response)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": "' + b"x" * (16 << 20) + b'"}', "bytes of JSON"),
        (b'{"a": [' + b"[]," * 25_000 + b"0]}", "objects and lists"),
        (b'{"a": [' + b"{}," * 25_000 + b"0]}", "objects and lists"),
        (b'{"a": [' + b'"",' * 150_000 + b"0]}", "quotes"),
        (b'{"a": [' + b"1," * 500_001 + b"0]}", "commas"),
        (b'{"a": "' + b"\\n" * 1_000_001 + b'"}', "backslashes"),
    ],
)
def test_json_has_a_size(body: bytes, message: str) -> None:
    started = time.process_time()
    with pytest.raises(RequestRejected, match=message) as refused:
        parse_json(body)
    assert refused.value.status == 413
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "' + b"x" * (15 << 20) + b'"}',
        b'{"a": "' + b"\\u00e9" * 990_000 + b'"}',
        b'{"a": [' + b"[]," * 24_000 + b"0]}",
        b'{"a": [' + b'"",' * 140_000 + b"0]}",
        b'{"a": [' + b"12345," * 490_000 + b"0]}",
        b'{"a": [' + b"1.2345678901234567e-103," * 490_000 + b"0]}",
        b'{"a": [' + (b"9" * 400 + b",") * 39_000 + b"0]}",
        b"{" + b",".join(b'"key%d":0' % n for n in range(140_000)) + b"}",
    ],
    ids=["text", "escapes", "lists", "texts", "numbers", "floats", "digits", "keys"],
)
def test_no_step_of_the_largest_bodies_holds_the_loop(body: bytes) -> None:
    def longest_step() -> float:
        steps, longest = json_steps(body), 0.0
        for _ in range(5):
            started = time.thread_time()
            done = next(steps, "done")
            longest = max(longest, time.thread_time() - started)
        assert done == "done"
        return longest

    # 0.06 s on a core of its own; other processes share its caches.
    assert min(longest_step() for _ in range(3)) < 0.15


def test_a_key_that_stands_twice_among_many_is_found_at_once() -> None:
    keys = [*range(140_000), 139_999]
    body = "{" + ",".join(f'"{key}":1' for key in keys) + "}"
    started = time.monotonic()
    with pytest.raises(RequestRejected, match="the key '139999' twice"):
        parse_json(body.encode())
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("number", [b"9" * 401, b"-" + b"1" * 100_000, b"7" * 900])
def test_a_number_has_at_most_400_digits(number: bytes) -> None:
    text = b'"' + b"3" * 5000 + b'"'
    with pytest.raises(RequestRejected, match=r"not valid JSON.*400 digits"):
        parse_json(b'{"a": [' + text + b", " + number + b"]}")


def test_texts_have_any_number_of_digits() -> None:
    body = b'{"a": ["' + b"3" * 5000 + b'", ' + b"9" * 400 + b", 1.5e3]}"
    assert parse_json(body) == {"a": ["3" * 5000, 10**400 - 1, 1500.0]}


class Numbers(Body):
    """A body that is parsed in steps."""

    numbers: list[int]


class Parser:
    """An application that parses bodies."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(Request(scope, receive), Numbers)
        await PlainTextResponse(str(len(body.numbers)))(scope, receive, send)


def test_other_requests_run_while_large_bodies_are_parsed() -> None:
    application = SharedMemoryMiddleware(Parser(), SharedMemory())
    turns = 0

    async def main() -> None:
        nonlocal turns
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://a"
        ) as client:
            content = b'{"numbers": [' + b"1," * 400_000 + b"1]}"
            posts = [
                asyncio.create_task(client.post("/", content=content)) for _ in range(2)
            ]
            while not all(post.done() for post in posts):
                turns += 1
                await asyncio.sleep(0)
            assert [(await post).text for post in posts] == ["400001"] * 2

    asyncio.run(main())
    # In the pauses.  Without them, it would be a few for each step.
    assert turns > 200


@pytest.mark.parametrize("lines", ["\n", "\r\n"])
def test_base64_of_lines_is_not_parsed_with_the_rest(lines: str) -> None:
    content = bytes(range(256)) * (96 << 10)
    text = base64.b64encode(content).decode()
    text = lines.join(text[at : at + 76] for at in range(0, len(text), 76))
    server = InProcessServer()
    image = {"type": "image_url", "image_url": {"url": text}}
    response = server.post(CHAT, {"messages": [{"role": "user", "content": [image]}]})
    assert response.status_code == 200, response.text
    assert server.engine.images == [content]


def test_large_bodies_wait_for_room_and_small_ones_do_not() -> None:
    memory = SharedMemory(bodies=4 << 20, texts=2 << 20)

    async def run() -> None:
        first, second = RequestMemory(memory, "a"), RequestMemory(memory, "b")
        third = RequestMemory(memory, "c")
        await first.take_body(2 << 20)
        await third.take_body((1 << 20) + 1)
        assert not first.is_body_awaited
        waiting = asyncio.ensure_future(second.take_body(2 << 20))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert first.is_body_awaited
        assert not second.is_body_awaited
        # Neither those that are small nor those of texts wait for large ones.
        await RequestMemory(memory).take_body(64 << 10)
        await RequestMemory(memory).take_body(1 << 20)
        first.shrink_body((1 << 20) - 1)
        await asyncio.wait_for(waiting, 1)
        assert not first.is_body_awaited
        # What can't have what it asks for gets all that a client may have.
        huge = asyncio.ensure_future(RequestMemory(memory).take_body(1 << 40))
        first.release()
        third.release()
        await asyncio.wait_for(huge, 1)
        assert memory.bodies.held == memory.bodies.capacity

    asyncio.run(run())


def test_a_client_has_half_of_the_memory() -> None:
    memory = SharedMemory(bodies=8 << 20)

    async def run() -> None:
        shares = [RequestMemory(memory, "a") for _ in range(3)]
        for share in shares[:2]:
            await share.take_body(2 << 20)
        waiting = asyncio.ensure_future(shares[2].take_body(2 << 20))
        await asyncio.sleep(0)
        assert not waiting.done()
        # It waits for its own bodies, and nobody for others'.
        other = RequestMemory(memory, "b")
        await asyncio.wait_for(other.take_body(4 << 20), 1)
        assert shares[0].is_body_awaited
        assert not other.is_body_awaited
        shares[0].release()
        await asyncio.wait_for(waiting, 1)
        assert memory.bodies.held_by("a") == memory.bodies.held_by("b") == 4 << 20

    asyncio.run(run())


@pytest.mark.parametrize("most", [0, 1])
def test_bodies_that_wait_are_bounded_too(most: int) -> None:
    memory = SharedMemory(bodies=6 << 20, max_waiting=most)

    async def run() -> None:
        first = RequestMemory(memory)
        await first.take_body(3 << 20)
        waiting = [
            asyncio.ensure_future(RequestMemory(memory).take_body(2 << 20))
            for _ in range(most)
        ]
        await asyncio.sleep(0)
        with pytest.raises(EngineOverloadedError, match="too many requests"):
            await RequestMemory(memory).take_body(2 << 20)
        # Others don't wait for what that client has.
        await RequestMemory(memory, "b").take_body(2 << 20)
        first.release()
        await asyncio.gather(*waiting)

    asyncio.run(run())


def test_a_request_gives_its_memory_back_when_it_is_answered() -> None:
    server = InProcessServer()
    memory = server.memory
    seen: list[int] = []

    async def look() -> None:
        seen.append(memory.bodies.held + memory.texts.held + memory.images.held)

    server.engine.wait = look
    image = "data:image/png;base64," + base64.b64encode(bytes(3 << 20)).decode()
    for body in (
        {"messages": [{"role": "user", "content": "a" * 200_000}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": image}}],
                }
            ]
        },
    ):
        assert server.post(CHAT, {"model": "served", **body}).status_code == 200
        assert server.post(CHAT, {"stream": True, **body}).status_code == 200
        assert server.post(CHAT, {"nonsense": 1, **body}).status_code == 400
        assert memory.bodies.held == memory.texts.held == memory.images.held == 0
    # Of the picture's file nothing is left but its tiles.
    assert max(seen) < 5 << 20
    assert min(seen) > 200_000


@pytest.mark.parametrize(
    "headers",
    [
        {f"x-{number}": "a" for number in range(300)},
        {"x": "a" * 70_000},
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/nothing"])
def test_large_heads_are_refused(path: str, headers: dict[str, str]) -> None:
    server = InProcessServer()
    server.app().add_middleware(RequestHeadMiddleware, form_of=error_form)
    response = server.request("POST", path, content=b"{}", headers=headers)
    assert response.status_code == 431
    assert "200 headers" in message_of(response)
    assert server.post(CHAT, BODY).status_code == 200
