"""What batches and files take is bounded, and the answers that fit are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from mllama.errors import MllamaError
from mllama.server.batches.options import BatchOptions
from tests.server.batches.running import CHAT, BatchServer, batch_server, requests
from tests.server.batches.test_batches import slow_engine
from tests.server.batches.test_files import kept, run


async def start(server: BatchServer, file: Any) -> Any:
    return await server.client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h"
    )


@pytest.mark.parametrize(
    ("limits", "status", "option"),
    [
        ({"max_file_bytes": 100}, 413, "--batch-max-file-size"),
        ({"max_file_bytes": 150, "max_disk_bytes": 150}, 429, "--batch-max-disk"),
    ],
)
def test_what_is_kept_is_bounded(
    tmp_path: Path, limits: dict[str, int], status: int, option: str
) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, **limits) as server:
            await server.upload(b"x" * 100)
            with pytest.raises(openai.APIStatusError, match=option) as error:
                await server.upload(b"x" * 101)
            assert error.value.status_code == status
            assert server.stores.files.used_bytes == 100
        assert len(kept(tmp_path)) == 2

    run(test())


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, max_files=3) as server:
            files = [await server.upload(b"x") for _ in range(3)]
            with pytest.raises(openai.RateLimitError, match="--batch-max-files"):
                await server.upload(b"x")
            await server.client.files.delete(files[0].id)
            await server.upload(b"x")
        assert len(kept(tmp_path)) == 2 * 3

    run(test())


def test_files_of_answers_are_counted_before_a_batch_begins(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, slow_engine(), max_files=6) as server:
            file = await server.upload(requests(1000))
            await start(server, file)
            await start(server, file)
            with pytest.raises(openai.RateLimitError) as error:
                await start(server, file)
            assert "keeps 6 files at most (--batch-max-files)" in str(error.value)
            assert "has 1, and 4 places are for the answers" in str(error.value)
            assert "Delete some files" in str(error.value)
            # Their places aren't for uploads either.
            await server.upload(b"x")
            with pytest.raises(openai.RateLimitError, match="--batch-max-files"):
                await server.upload(b"x")

    run(test())


def test_batches_over_one_file_make_no_more_than_is_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, max_files=4) as server:
            file = await server.upload(requests(1))
            # Each leaves one file, for it has no errors.
            for _ in range(2):
                batch = await server.ended(await start(server, file))
            with pytest.raises(openai.RateLimitError, match="Delete some files"):
                await start(server, file)
            assert len(server.stores.files) == 3
            await server.client.files.delete(batch.output_file_id)
            await server.ended(await start(server, file))

    run(test())


def test_a_batch_needs_three_files(tmp_path: Path) -> None:
    with pytest.raises(MllamaError, match="--batch-max-files must be at least 3"):
        BatchOptions(directory=tmp_path, max_files=2)


def test_answers_that_do_not_fit_fail_the_batch(tmp_path: Path) -> None:
    content = requests(100)
    limit = len(content) + 3000

    async def test() -> None:
        async with batch_server(
            tmp_path, max_file_bytes=limit, max_disk_bytes=limit
        ) as server:
            batch = await server.ended(await server.start(content))
            assert batch.status == "failed"
            assert batch.errors.data[0].code == "storage_limit_exceeded"
            # What fitted isn't lost.
            assert await server.lines(batch.output_file_id)
            assert server.stores.files.used_bytes <= limit

    run(test())
