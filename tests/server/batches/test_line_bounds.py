"""Lines of batches have the bounds of requests' bodies before they are parsed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic_core
import pytest

from mllama.batch import lines
from mllama.server.batches.line_bounds import bound_error
from tests.server.batches.running import BatchServer, batch_server, requests
from tests.server.batches.test_files import run


def line(value: str) -> bytes:
    """A line whose body has a value."""
    start = requests(1)[: -len("}}\n")].decode()
    return f'{start}, "x": {value}}}}}\n'.encode()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the lines that have been parsed."""
    found: list[int] = []

    def spy(text: bytes, **options: Any) -> Any:
        found.append(len(text))
        return pydantic_core.from_json(text, **options)

    monkeypatch.setattr(lines, "from_json", spy)
    return found


TOO_MUCH = [
    (f"[{'[],' * 25_000}[]]", "more than 25000 objects and lists"),
    (f"[{'0,' * 500_001}0]", "more than 500000 commas"),
    (json.dumps(" " * (17 << 20)), "bytes of JSON beside images in base64"),
    ("1" * 5000, "a number of more than 400 digits"),
]


@pytest.mark.parametrize(("value", "message"), TOO_MUCH)
def test_a_line_that_takes_too_much_is_not_parsed(
    tmp_path: Path, parsed: list[int], value: str, message: str
) -> None:
    content = requests(1) + line(value)

    async def test() -> None:
        async with batch_server(tmp_path) as server:
            batch = await server.ended(await server.start(content))
            assert batch.status == "failed"
            (problem,) = batch.errors.data
            assert (problem.code, problem.line) == ("invalid_json_line", 2)
            assert "The line " in problem.message
            assert message in problem.message
            assert parsed == [len(requests(1)) - 1]

    run(test())


def test_a_batch_that_goes_on_after_a_restart_parses_no_such_line(
    tmp_path: Path, parsed: list[int]
) -> None:
    """As one that an earlier version had found right."""
    content = requests(1) + line(TOO_MUCH[0][0])

    async def begun(server: BatchServer) -> Any:
        file = await server.upload(content)
        batch = await server.client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
        record = server.stores.batches.find((await server.ended(batch)).id)
        assert record is not None
        record.status, record.errors = "in_progress", []
        server.stores.batches.save(record)
        return batch

    async def test() -> None:
        async with batch_server(tmp_path) as server:
            started = await begun(server)
        parsed.clear()
        async with batch_server(tmp_path) as server:
            batch = await server.ended(started)
            assert batch.status == "completed"
            assert len(await server.lines(batch.output_file_id)) == 1
            (failed,) = await server.lines(batch.error_file_id)
            assert failed["error"]["code"] == "invalid_json_line"
            assert parsed == [len(requests(1)) - 1]

    run(test())


def test_long_pictures_do_not_count() -> None:
    picture = "data:image/png;base64," + "A" * (20 << 20)
    assert bound_error(line(json.dumps(picture))) is None
    assert bound_error(requests(1)) is None
