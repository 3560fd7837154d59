"""Lines of batches are answered as requests of HTTP are."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mllama.batch.lines import BatchLine, encode_body
from mllama.batch.results import LineAnswer
from mllama.errors import EngineError, ImageError
from mllama.server.arrival.shared_memory import SharedMemory
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.batches.local_answers import LocalAnswers
from mllama.server.batches.local_images import LocalImages
from tests.server.dialects.in_process import InProcessServer

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def answer(
    url: str, body: Any, server: InProcessServer | None = None, **fields: Any
) -> tuple[LineAnswer, Any]:
    server = server or InProcessServer()
    answers = LineAnswers(
        server.engine, server.capabilities, server.fetcher, server.memory
    )
    line = BatchLine(1, "one", url, encode_body(body), **fields)
    result = asyncio.run(asyncio.wait_for(answers(line), 30))
    return result, json.loads(result.body)


def asking_about(url: str) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [image]}]}


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": ["Hi", "Ho"]}),
        ("/v1/responses", {"input": "Hi"}),
    ],
)
def test_an_answer_is_that_of_the_route(url: str, body: Any) -> None:
    result, content = answer(url, body)
    expected = InProcessServer().post(url, body).json()
    volatile = ("id", "created", "created_at", "completed_at", "output")
    assert result.status == 200
    assert not result.is_error
    assert {k: v for k, v in content.items() if k not in volatile} == {
        k: v for k, v in expected.items() if k not in volatile
    }
    assert result.completion_tokens > 0
    assert b"\n" not in result.body


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/chat/completions", CHAT | {"temperature": 9}),
        ("/v1/chat/completions", CHAT | {"nonsense": 1}),
        ("/v1/chat/completions", CHAT | {"model": "another"}),
        ("/v1/chat/completions", asking_about("http://pictures/missing.png")),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": -1}),
        ("/v1/responses", {"input": []}),
        ("/v1/moderations", {"input": "Hi"}),
    ],
)
def test_an_error_is_that_of_the_route(url: str, body: Any) -> None:
    result, content = answer(url, body)
    expected = InProcessServer().post(url, body)
    assert (result.status, content) == (expected.status_code, expected.json())
    assert result.is_error
    assert result.error_message


@pytest.mark.parametrize("url", ["/v1/embeddings", "/v1/models", "", "/metrics"])
def test_other_paths_are_refused(url: str) -> None:
    result, content = answer(url, CHAT)
    assert result.status == 400
    assert content["error"]["code"] == "invalid_url"
    assert "/v1/chat/completions" in content["error"]["message"]


def test_an_engine_that_fails_is_a_server_error() -> None:
    server = InProcessServer()
    server.engine.error = EngineError("the model failed")
    result, content = answer("/v1/chat/completions", CHAT, server)
    assert result.status == 500
    assert content["error"]["type"] == "server_error"


def test_an_answer_that_is_given_up_is_cancelled() -> None:
    server = InProcessServer()
    server.engine.wait = lambda: asyncio.sleep(60)
    answers = LineAnswers(
        server.engine, server.capabilities, server.fetcher, server.memory
    )

    async def give_up() -> None:
        task = asyncio.ensure_future(
            answers(BatchLine(1, "one", "/v1/chat/completions", encode_body(CHAT)))
        )
        while not server.engine.running:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(give_up(), 30))
    assert server.engine.running == 0


def test_pictures_of_all_lines_share_the_memory() -> None:
    server = InProcessServer(memory=SharedMemory(images=10 << 20))
    loading = most = 0

    class Fetcher:
        async def fetch(self, url: str, charge: object) -> bytes:
            nonlocal loading, most
            loading += 1
            most = max(most, loading)
            await asyncio.sleep(0.01)
            loading -= 1
            return b"image"

    fetcher: Any = Fetcher()
    answers = LineAnswers(server.engine, server.capabilities, fetcher, server.memory)
    body = encode_body(asking_about("http://pictures/one.png"))

    async def ask(number: int) -> LineAnswer:
        line = BatchLine(number, str(number), "/v1/chat/completions", body)
        return await asyncio.wait_for(answers(line), 30)

    async def main() -> None:
        results = await asyncio.gather(*(ask(number) for number in range(4)))
        assert [each.status for each in results] == [200] * 4
        assert most == 1
        assert server.memory.images.held == 0
        server.engine.wait = lambda: asyncio.sleep(60)
        task = asyncio.ensure_future(ask(5))
        while not server.engine.running:
            await asyncio.sleep(0.01)
        assert server.memory.images.held > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.memory.images.held == 0

    asyncio.run(main())


def test_pictures_come_from_files_and_from_the_line(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"file")
    images = LocalImages(tmp_path)
    images.attach({"attached:1-0": b"attached"})
    server = InProcessServer(fetcher=images)
    data = base64.b64encode(b"inline").decode()
    for url in (
        "file:a%20b.png",
        (tmp_path / "a b.png").as_uri(),
        "attached:1-0",
        f"data:image/png;base64,{data}",
    ):
        result, content = answer("/v1/chat/completions", asking_about(url), server)
        assert result.status == 200, content
    assert server.engine.images == [b"file", b"file", b"attached", b"inline"]
    # Another line comes with the same file.
    images.attach({"attached:1-0": b"attached"})
    images.detach({"attached:1-0": b"attached"})
    assert asyncio.run(images.fetch("attached:1-0", lambda size: None)) == b"attached"
    images.detach({"attached:1-0": b"attached"})
    for url in ("attached:1-0", "file:missing.png"):
        result, content = answer("/v1/chat/completions", asking_about(url), server)
        assert (result.status, content["error"]["code"]) == (400, "invalid_image")


def test_a_picture_that_another_machine_could_not_read_is_not_looked_for_here(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(b"another")
    server = InProcessServer()
    answers = LocalAnswers(
        server.engine,  # type: ignore[arg-type]
        server.capabilities,
        tmp_path,
        lambda: None,
    )
    line = BatchLine(
        1,
        "one",
        "/v1/chat/completions",
        encode_body(asking_about("file:a.png")),
        unreadable={"file:a.png": "a.png can't be read: No such file or directory"},
    )
    for _ in range(2):
        error = json.loads(asyncio.run(answers(line)).body)["error"]
        assert error["message"] == (
            "image 1: a.png can't be read: No such file or directory"
        )
        assert error["code"] == "invalid_image"
    assert server.engine.images == []


def test_a_file_of_any_size_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllama.batch.local_files.MAX_BYTES", 10)
    (tmp_path / "a.png").write_bytes(b"x" * 11)
    with pytest.raises(ImageError, match="has more than"):
        asyncio.run(LocalImages(tmp_path).fetch("file:a.png", lambda size: None))
