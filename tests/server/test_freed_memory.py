"""Requests that fail leave nothing behind, whenever Python next collects garbage."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from mllama.images.preparation import prepare_image
from mllama.images.worker_process import WorkerProcess
from tests.server.dialects.in_process import InProcessServer

PATH = "/v1/chat/completions"
SIZE = 1 << 20
REQUESTS = 10


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def body_with(image: str, *, streams: bool) -> bytes:
    url = f"data:image/png;base64,{image}"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": content}]
    return json.dumps({"stream": streams, "messages": messages}).encode()


async def status_of(app: Any, body: bytes) -> int:
    """Sends a request as a server does, without a client that keeps it too."""
    unsent, sent = [body], list[Any]()

    async def receive() -> Any:
        if unsent:
            return {"type": "http.request", "body": unsent.pop(), "more_body": False}
        await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "server": ("server", 80),
        "client": ("client", 80),
    }
    await app(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("end", ["", "=AAA"], ids=["no image", "damaged base64"])
def test_images_that_fail_are_freed(
    streams: bool, end: str, no_garbage_collection: None
) -> None:
    server = InProcessServer()
    processor: Any = None
    server.engine.prepare_image = lambda image: prepare_image(  # type: ignore[method-assign]
        image, processor
    )
    app = server.app()

    async def main() -> None:
        async def ask() -> None:
            image = base64.b64encode(os.urandom(SIZE)).decode() + end
            assert await status_of(app, body_with(image, streams=streams)) == 400

        await ask()
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(REQUESTS):
                await ask()
            # Of the last one, threads may be about to free the rest.
            assert tracemalloc.get_traced_memory()[0] < 4 * SIZE
        finally:
            tracemalloc.stop()

    asyncio.run(main())


def test_an_image_that_fails_in_a_process_is_freed(no_garbage_collection: None) -> None:
    freed = []

    class Content(bytes):
        def __del__(self) -> None:
            freed.append(True)

    process = WorkerProcess()
    processor: Any = None
    try:
        with pytest.raises(ValueError, match="not an image"):
            process.prepare(Content(b"no image"), processor)
    finally:
        process.close()
    assert freed
