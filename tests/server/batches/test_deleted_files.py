"""A file that is deleted while it is read is one that there isn't."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from mllama.server.batches.ranged_file_response import RangedFileResponse
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
