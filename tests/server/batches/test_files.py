"""Files of clients are kept, within bounds, and forgotten in time."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from mllama.server.batches.records import KEPT_SECONDS, FileRecord, new_id, now
from tests.server.batches.running import BatchServer, batch_server, requests
from tests.server.batches.test_batches import slow_engine


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(test, 120))


def kept(folder: Path) -> list[str]:
    return [path.name for path in (folder / "files").iterdir()]


def test_a_file_is_kept_and_deleted(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000

    async def test() -> None:
        async with batch_server(tmp_path) as server:
            file = await server.upload(content)
            assert (file.bytes, file.filename) == (len(content), "in.jsonl")
            assert (file.object, file.purpose) == ("file", "batch")
            assert file.expires_at == pytest.approx(now() + KEPT_SECONDS, abs=5)
            found = await server.client.files.retrieve(file.id)
            assert found == file
            got = await server.client.files.content(file.id)
            assert got.content == content
            assert server.stores.files.used_bytes == len(content)
            deleted = await server.client.files.delete(file.id)
            assert deleted.deleted
            assert server.stores.files.used_bytes == 0
            with pytest.raises(openai.NotFoundError):
                await server.client.files.retrieve(file.id)
        assert kept(tmp_path) == []

    run(test())


@pytest.mark.parametrize(
    ("asked", "status", "found"),
    [
        ("bytes=2-4", 206, b"cde"),
        ("bytes=", 400, "must be like"),
        ("bytes=x-y", 400, "must be like"),
        ("lines=1-2", 400, "must be like"),
        ("bytes=10-20", 416, "has 10 bytes"),
        ("bytes=4-2", 400, "must be like"),
    ],
)
def test_parts_of_a_file(
    tmp_path: Path, asked: str, status: int, found: bytes | str
) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            file = await server.upload(b"abcdefghij")
            transport = httpx.ASGITransport(app=server.app)
            async with httpx.AsyncClient(transport=transport) as client:
                response = await client.get(
                    f"http://server/v1/files/{file.id}/content",
                    headers={"Range": asked},
                )
            assert response.status_code == status
            if isinstance(found, bytes):
                assert response.content == found
            else:
                assert found in response.json()["error"]["message"]
            if status == 416:
                assert response.headers["content-range"] == "bytes */10"

    run(test())


@contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """Has writes beyond a number of bytes of a file fail, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("largest", [0, 100, 1000])
def test_a_full_disk_keeps_nothing_by_halves(
    tmp_path: Path, largest: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            file = await server.upload(requests(1))
            before = kept(tmp_path), server.stores.files.used_bytes
            # The content, or the record of one that is short, doesn't fit.
            for content in (b"x" * 20_000, *([b"{}"] if largest < 200 else [])):
                with full_disk(largest), pytest.raises(openai.InternalServerError) as e:
                    await server.upload(content)
                assert e.value.status_code == 507
                assert "can't be kept: File too large" in str(e.value)
                assert (kept(tmp_path), server.stores.files.used_bytes) == before
            if largest < 200:
                with full_disk(largest), pytest.raises(openai.InternalServerError) as e:
                    await server.client.batches.create(
                        input_file_id=file.id,
                        endpoint="/v1/chat/completions",
                        completion_window="24h",
                    )
                assert e.value.status_code == 507
                assert not (await server.client.batches.list()).data
            # With room, all is well again.
            batch = await server.ended(await server.start(requests(1)))
            assert batch.status == "completed"

    run(test())
    assert not [each for each in caplog.records if each.exc_info]


def test_files_survive_the_server(tmp_path: Path) -> None:
    async def first() -> Any:
        async with batch_server(tmp_path) as server:
            return await server.upload(b"{}")

    async def second(file: Any) -> None:
        unfinished, broken = new_id("file-"), new_id("file-")
        (tmp_path / "files" / f"{unfinished}.content").write_bytes(b"x")
        (tmp_path / "files" / f"{unfinished}.json.12-3.part").write_bytes(b"{")
        (tmp_path / "files" / f"{broken}.json").write_bytes(b"{")
        (tmp_path / "files" / f"{broken}.content").write_bytes(b"x")
        async with batch_server(tmp_path) as server:
            assert (await server.client.files.retrieve(file.id)) == file
            assert server.stores.files.used_bytes == 2
        assert sorted(kept(tmp_path)) == sorted(
            f"{each}.{end}" for each in (file.id, broken) for end in ("content", "json")
        )

    run(second(run(first())))


@pytest.mark.parametrize("folder", ["files", "batches"])
def test_what_the_user_keeps_in_the_folder_is_left_alone(
    tmp_path: Path, folder: str
) -> None:
    own = tmp_path / folder
    (own / "holidays").mkdir(parents=True)
    # As names of this package begin, but a folder.
    (own / f"{new_id('file-')}.content").mkdir()
    record = FileRecord(
        id="../photo", owner="", bytes=1, filename="", purpose="", expires_at=1
    )
    contents = {
        own / "photo.jpg": b"a picture",
        own / "photo.jpg.part": b"a download",
        own / "file-.content": b"text",
        own / "holidays" / "photo.jpg": b"another",
        tmp_path / "photo.json": b"{}",
        # It isn't deleted as a file that has expired.
        own / "record.json": record.model_dump_json().encode(),
        own / f"{new_id('file-')}.json": record.model_dump_json().encode(),
    }
    for path, content in contents.items():
        path.write_bytes(content)

    async def test() -> None:
        for _ in range(2):
            async with batch_server(tmp_path) as server:
                await server.upload(b"{}")
                server.stores.remove_expired()

    run(test())
    assert {path: path.read_bytes() for path in contents} == contents


def test_a_file_that_a_batch_reads_is_not_deleted(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, slow_engine()) as server:
            started = await server.start(requests(100))
            with pytest.raises(openai.ConflictError):
                await server.client.files.delete(started.input_file_id)
            await server.client.batches.cancel(started.id)
            await server.ended(started)
            await server.client.files.delete(started.input_file_id)

    run(test())


def test_files_expire(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            file = await server.upload(
                b"x", expires_after={"anchor": "created_at", "seconds": 3600}
            )
            assert file.expires_at == file.created_at + 3600
            record = server.stores.files.find(file.id)
            assert record is not None
            record.expires_at = now() - 1
            server.stores.remove_expired()
            with pytest.raises(openai.NotFoundError):
                await server.client.files.retrieve(file.id)
        assert kept(tmp_path) == []

    run(test())


async def post(server: BatchServer, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=server.app), base_url="http://server"
    ) as client:
        return await client.post("/v1/files", **options)


FILE = {"file": ("a.jsonl", b"{}")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json": {}}, "must be a form"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "form"),
        (
            {
                "content": b"nonsense",
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            "no valid form",
        ),
        (
            {
                "content": b"x",
                "headers": {
                    "content-type": f"multipart/form-data; boundary={'x' * 1000}"
                },
            },
            "no valid form",
        ),
        (
            {
                "content": b'--x\r\nContent-Disposition: form-data; name="file"; '
                b'filename="a"\r\n\r\nhalf',
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            "ends too soon",
        ),
        ({"files": FILE}, "`purpose` must be 'batch'"),
        ({"files": FILE, "data": {"purpose": "vision"}}, "`purpose` must be 'batch'"),
        ({"files": FILE, "data": {"purpose": "batch", "x": "1"}}, "`x` is not a field"),
        ({"files": FILE, "data": {"purpose": "x" * 2000}}, "too long"),
        (
            {"data": {"purpose": "batch"}, "files": {"other": b"x"}},
            "not a field|required",
        ),
        ({"files": [("file", b"a"), ("file", b"b")], "data": {}}, "more than one"),
        (
            {
                "files": FILE,
                "data": {
                    "purpose": "batch",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "5",
                },
            },
            "must be from 3600",
        ),
    ],
)
def test_a_wrong_form_is_refused_and_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            response = await post(server, **options)
            assert response.status_code == 400, response.text
            error = response.json()["error"]
            assert error["type"] == "invalid_request_error"
            assert any(each in error["message"] for each in message.split("|"))
            assert server.stores.files.used_bytes == 0
        assert kept(tmp_path) == []

    run(test())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "48h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"metadata": {str(each): "x" for each in range(17)}}, "metadata"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_wrong_batch_is_refused(
    tmp_path: Path, body: dict[str, Any], param: str
) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            file = await server.upload(requests(1))
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=server.app), base_url="http://server"
            ) as client:
                response = await client.post(
                    "/v1/batches",
                    json={
                        "input_file_id": file.id,
                        "endpoint": "/v1/chat/completions",
                        "completion_window": "24h",
                        **body,
                    },
                )
            assert response.status_code == 400
            assert response.json()["error"]["param"] == param

    run(test())
