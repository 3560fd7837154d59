"""Who waits too long for memory is told so, and leaves its place."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from mllama.server.arrival.shared_memory import (
    MAX_WAIT_SECONDS,
    RequestMemory,
    SharedMemory,
    SharedMemoryMiddleware,
)
from mllama.server.options import ServerOptions
from mllama.server.routes import shared_memory
from mllama.server.scheduling.fair_semaphore import FairSemaphore, Lease
from mllama.server.scheduling.options import OverloadOptions
from mllama.utils.fair_threads import Waiter, current_waiter
from tests.server.dialects.in_process import InProcessServer

LONG = "a" * 100_000


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


IMAGE = picture()
OPENAIS = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": IMAGE}
TEXTS: dict[str, Any] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": LONG}]},
    "/v1/completions": {"prompt": LONG},
    "/v1/responses": {"input": LONG},
    "/v1/messages": {
        "model": "served",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": LONG}],
    },
    "/api/chat": {"model": "served", "messages": [{"role": "user", "content": LONG}]},
    "/api/generate": {"model": "served", "prompt": LONG},
}
IMAGES: dict[str, Any] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": [OPENAIS]}]},
    "/v1/messages": {
        "model": "served",
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": SOURCE}]}
        ],
    },
    "/api/generate": {"model": "served", "prompt": "a", "images": [IMAGE]},
}


def held(pool: FairSemaphore) -> list[Lease]:
    """All of a pool, held by two others."""

    async def hold() -> list[Lease]:
        return [
            await pool.acquire(min(pool.free, pool.most_each), client)
            for client in ("first", "second")
            if pool.free
        ]

    return asyncio.run(hold())


def impatient_server() -> InProcessServer:
    return InProcessServer(memory=SharedMemory(max_wait=0.05))


def message_of(answer: Any) -> str:
    error = answer["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("path", TEXTS)
def test_a_body_that_gets_no_memory_in_time_is_a_429(path: str, streams: bool) -> None:
    server = impatient_server()
    leases = held(server.memory.texts)
    body = {**TEXTS[path], "stream": streams}
    response = server.post(path, body)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert "no memory for this one for 0.05 s" in message_of(response.json())
    assert server.memory.texts.waiting == 0
    for lease in leases:
        lease.release()
    assert server.memory.texts.held == 0
    assert server.post(path, body).status_code == 200


@pytest.mark.parametrize("path", IMAGES)
def test_images_that_get_no_memory_in_time_are_a_429(path: str) -> None:
    server = impatient_server()
    leases = held(server.memory.images)
    body = {**IMAGES[path], "stream": False}
    response = server.post(path, body)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert "no memory" in message_of(response.json())
    assert (server.memory.images.waiting, server.engine.running) == (0, 0)
    for lease in leases:
        lease.release()
    assert server.memory.images.held == 0
    assert server.post(path, body).status_code == 200


@pytest.mark.parametrize("path", IMAGES)
def test_a_stream_without_memory_for_its_images_says_so(path: str) -> None:
    server = impatient_server()
    held(server.memory.images)
    response = server.post(path, {**IMAGES[path], "stream": True})
    assert "no memory" in response.text
    if response.status_code == 200:
        lines = [line for line in response.text.splitlines() if "no memory" in line]
        assert "error" in json.loads(lines[-1].removeprefix("data: "))
    else:
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1


def test_others_are_served_when_one_has_given_up() -> None:
    memory = SharedMemory(bodies=8 << 20, max_wait=0.05)

    async def run() -> None:
        # The first in the queue needs more than there is, and is in the way.
        large, small = RequestMemory(memory, "large"), RequestMemory(memory, "small")
        leases = [await memory.bodies.acquire(3 << 20, each) for each in ("a", "b")]
        first = asyncio.ensure_future(large.take_body(4 << 20))
        await asyncio.sleep(0)
        memory.max_wait = None
        second = asyncio.ensure_future(small.take_body(2 << 20))
        with pytest.raises(RuntimeError, match="no memory"):
            await first
        await asyncio.wait_for(second, 20)
        small.release()
        for lease in leases:
            lease.release()
        assert (memory.bodies.held, memory.bodies.waiting) == (0, 0)

    asyncio.run(run())


def test_a_request_that_is_cancelled_as_memory_comes_gives_it_back() -> None:
    memory = SharedMemory(bodies=8 << 20)

    async def run() -> None:
        leases = [await memory.bodies.acquire(4 << 20, each) for each in ("a", "b")]
        request = asyncio.ensure_future(RequestMemory(memory, "c").take_body(4 << 20))
        await asyncio.sleep(0)
        assert memory.bodies.waiting == 1
        for lease in leases:
            lease.release()
        # It has got it, and isn't told yet.
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert (memory.bodies.held, memory.bodies.waiting) == (0, 0)

    asyncio.run(run())


def test_what_comes_in_time_is_no_error_later() -> None:
    pool = FairSemaphore(1)

    async def run() -> None:
        first = await pool.acquire(seconds=0.05)
        waiting = asyncio.ensure_future(pool.acquire(seconds=0.05))
        await asyncio.sleep(0)
        first.release()
        second = await waiting
        await asyncio.sleep(0.1)
        assert pool.held == 1
        second.release()
        assert pool.held == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("limit", "seconds"), [(None, MAX_WAIT_SECONDS), (7.5, 7.5), (1e6, 300)]
)
def test_no_wait_is_longer_than_the_first_token_may_take(
    limit: float | None, seconds: float
) -> None:
    overload = OverloadOptions(max_time_to_first_token=limit)
    options = ServerOptions(host="127.0.0.1", port=0, overload=overload)
    assert shared_memory(options).max_wait == seconds


@pytest.mark.parametrize("kind", ["bodies", "texts", "images"])
def test_one_client_has_half_of_the_memory(kind: str) -> None:
    memory = SharedMemory(bodies=100, texts=200, images=300)
    pool: FairSemaphore = getattr(memory, kind)
    assert pool.most_each * 2 == pool.capacity


def test_whoever_is_alone_may_have_all_of_the_memory() -> None:
    memory = SharedMemory(images=300, most_each=1.0)
    assert memory.images.most_each == memory.images.capacity


def test_threads_know_whom_a_request_works_for() -> None:
    found = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(await asyncio.ensure_future(waiter()))

    async def waiter() -> Waiter:
        return current_waiter()

    middleware: Any = SharedMemoryMiddleware(
        app, SharedMemory(max_wait=7), lambda scope: "client"
    )
    asyncio.run(middleware({"type": "http"}, None, None))
    assert found == [Waiter("client", 7)]
    assert current_waiter() == Waiter()
