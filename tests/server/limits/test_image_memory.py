"""Images take as much of the shared memory as they may need, and no more."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama.batch.lines import BatchLine, encode_body
from mllama.server.arrival.shared_memory import SharedMemory
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.batches.local_answers import LocalAnswers
from tests.server.dialects.in_process import InProcessServer

CHAT = "/v1/chat/completions"
THUMBNAIL = base64.b64encode(bytes(15_000)).decode()
MIB = 1 << 20


def asking_about(*urls: str) -> bytes:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return encode_body({"messages": [{"role": "user", "content": content}]})


def new_server() -> InProcessServer:
    server = InProcessServer()
    server.engine.wait = lambda: asyncio.sleep(60)
    return server


class Held:
    """What a request holds while its images are loaded, and after that."""

    def __init__(self, urls: list[str]) -> None:
        server = new_server()
        self.before = 0
        prepare = server.engine.prepare_image

        def prepare_image(image: Any) -> Any:
            self.before = server.memory.images.held
            return prepare(image)

        server.engine.prepare_image = prepare_image  # type: ignore[method-assign]
        answers = LineAnswers(
            server.engine, server.capabilities, server.fetcher, server.memory
        )
        line = BatchLine(1, "one", CHAT, asking_about(*urls))

        async def ask() -> int:
            task = asyncio.ensure_future(answers(line))
            while not server.engine.running:
                await asyncio.sleep(0.01)
            held = server.memory.images.held
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return held

        self.after = asyncio.run(asyncio.wait_for(ask(), 30))
        assert server.memory.images.held == 0


@pytest.mark.parametrize("form", ["data:image/png;base64,{}", "{}"])
def test_inline_images_take_what_the_body_has(form: str) -> None:
    held = Held([form.format(THUMBNAIL)] * 4)
    assert 4 * 4 * MIB < held.before < 4 * 4 * MIB + 100_000
    assert held.after == 4 * 15_000


def test_images_elsewhere_may_be_of_any_size() -> None:
    held = Held(["http://pictures/one.png"])
    assert held.before == 64 * MIB + 4 * MIB
    assert held.after == len(b"one")


def test_many_thumbnails_of_one_client_are_loaded_together() -> None:
    """As a camera sends them, ten in a request."""
    server = new_server()
    answers = LineAnswers(
        server.engine, server.capabilities, server.fetcher, server.memory
    )
    line = BatchLine(1, "one", CHAT, asking_about(*[THUMBNAIL] * 4))

    async def ask() -> None:
        tasks = [asyncio.ensure_future(answers(line)) for _ in range(60)]
        while server.engine.running < len(tasks):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(ask(), 30))


def test_a_batch_on_this_machine_has_all_of_the_memory(tmp_path: Path) -> None:
    """Two lines of seven files each are answered together."""
    loading, most = 0, 0
    names = [f"{number}.png" for number in range(7)]
    for name in names:
        tmp_path.joinpath(name).write_bytes(b"image")
    server = InProcessServer()
    client: Any = server.engine
    capabilities = replace(server.capabilities, max_images=None)
    answers = LocalAnswers(client, capabilities, tmp_path, lambda: None)
    take = SharedMemory().images.capacity
    assert take > 2 * 7 * 68 * MIB
    images: Any = answers._images
    fetch = images.fetch

    async def slow(*arguments: Any) -> bytes:
        nonlocal loading, most
        loading += 1
        most = max(most, loading)
        await asyncio.sleep(0.1)
        loading -= 1
        content: bytes = await fetch(*arguments)
        return content

    images.fetch = slow
    body = asking_about(*(f"file:{name}" for name in names))

    async def ask() -> None:
        lines = [BatchLine(each, str(each), CHAT, body) for each in range(2)]
        results = await asyncio.gather(*map(answers, lines))
        assert [each.status for each in results] == [200, 200]

    asyncio.run(asyncio.wait_for(ask(), 30))
    assert most == 14
