"""A file that is deleted while it is read is one that there isn't."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from mllama.server.batches import job
from mllama.server.batches.file_store import FileStore
from mllama.server.batches.ranged_file_response import RangedFileResponse
from mllama.server.batches.records import FileRecord
from tests.server.batches.running import batch_server, requests
from tests.server.batches.test_files import run


@pytest.mark.parametrize("when", ["__init__", "set_stat_headers"])
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=1-2"}])
def test_a_file_that_is_deleted_before_it_is_opened(
    tmp_path: Path,
    when: str,
    headers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = getattr(RangedFileResponse, when)

    def deleting(response: Any, *args: Any, **more: Any) -> None:
        original(response, *args, **more)
        Path(response.path).unlink()

    monkeypatch.setattr(RangedFileResponse, when, deleting)

    async def test() -> None:
        async with batch_server(tmp_path) as server:
            file = await server.upload(b"abcdef")
            transport = httpx.ASGITransport(app=server.app)
            async with httpx.AsyncClient(transport=transport) as client:
                url = f"http://server/v1/files/{file.id}/content"
                response = await client.get(url, headers=headers)
            assert response.status_code == 404
            assert file.id in response.json()["error"]["message"]

    run(test())


def test_a_file_of_answers_is_found_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, found = os.replace, []

    async def test() -> None:
        async with batch_server(tmp_path) as server:

            def moving(source: Any, target: Any) -> None:
                target = Path(target)
                if target.name.endswith(".content"):
                    file_id = target.name.partition(".")[0]
                    found.append(server.stores.files.find(file_id))
                    # A server that ends here finds the file at its next start.
                    assert target.with_name(f"{file_id}.json").exists()
                replace(source, target)

            monkeypatch.setattr(os, "replace", moving)
            batch = await server.ended(await server.start(requests(2)))
            assert found == [None]
            assert len(await server.lines(batch.output_file_id)) == 2
            assert batch.output_file_id in [
                each.id async for each in server.client.files.list()
            ]
            await server.client.files.delete(batch.output_file_id)
            with pytest.raises(openai.NotFoundError):
                await server.client.files.content(batch.output_file_id)

    run(asyncio.wait_for(test(), 60))


def test_a_file_of_answers_that_is_deleted_while_the_errors_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_FULL_PAUSE", 0.01)
    adopt, failures, is_full = FileStore.adopt, 0, True

    def adopt_answers(store: FileStore, source: Path, record: FileRecord) -> None:
        nonlocal failures
        if is_full and record.filename.endswith("_error.jsonl"):
            failures += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        adopt(store, source, record)

    monkeypatch.setattr(FileStore, "adopt", adopt_answers)

    async def test() -> None:
        nonlocal is_full
        async with batch_server(tmp_path) as server:
            wrong = requests(1, temperature=9).replace(b"request-1", b"wrong")
            started = await server.start(requests(1) + wrong)
            while not failures:
                await asyncio.sleep(0.01)
            (answers,) = [
                each.id
                async for each in server.client.files.list(purpose="batch_output")
            ]
            await server.client.files.delete(answers)
            tries = failures
            (record,) = server.stores.batches
            while failures < tries + 2 and not record.is_over:
                await asyncio.sleep(0.01)
            is_full = False
            batch = await server.ended(started)
            assert (batch.status, batch.errors) == ("completed", None)
            assert batch.output_file_id == answers
            (line,) = await server.lines(batch.error_file_id)
            assert line["custom_id"] == "wrong"
            with pytest.raises(openai.NotFoundError):
                await server.client.files.content(answers)
            used = server.stores.files.used_bytes
            assert used == sum(file.bytes for file in server.stores.files)

    run(asyncio.wait_for(test(), 60))
