"""An output that has other things than answers is refused, and left as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllama.batch.destination import Destination
from mllama.batch.lines import BatchLine
from mllama.batch.results import LineAnswer, answered
from mllama.batch.seen_ids import SeenIds
from mllama.errors import MllamaError

REQUEST = {"custom_id": "1", "url": "/v1/completions", "body": {"prompt": "x"}}


def result(number: int) -> bytes:
    line = BatchLine(number=number, custom_id=f"request-{number}")
    return answered(line, LineAnswer(200, b'{"choices":[]}', "id"))


def opened(output: Path, **options: Any) -> SeenIds:
    """Begins and ends a run that asks nothing, and returns what it has found."""
    seen = SeenIds()
    retry_errors = options.pop("retry_errors", False)
    with Destination(str(output), **options).opened(seen, retry_errors=retry_errors):
        return seen


retrying = pytest.mark.parametrize("retry_errors", [False, True])

FOREIGN = {
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
    "picture without a line": b"\xff\xd8\xff\xe0" + b"x" * 3_000_000,
    "object without an end": b'{"mine": true}',
    "object": b'{\n  "mine": true\n}',
    "requests": f"{json.dumps(REQUEST)}\n{json.dumps(REQUEST)}".encode(),
    "text": b"one\ntwo",
    "empty line": b"\n{",
    "other id": b'{"id":"batch_req_xyz","custom_id":"1"}',
}


@retrying
@pytest.mark.parametrize("name", ["out.jsonl", "b.jpg", "folder/part-00000.jsonl"])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_something_else_is_left_as_it_is(
    tmp_path: Path, content: bytes, name: str, *, retry_errors: bool
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    output = path.parent if path.stem.startswith("part-") else path
    with pytest.raises(MllamaError, match=r"line 1 of .* is not an answer of a batch"):
        opened(output, retry_errors=retry_errors)
    assert path.read_bytes() == content


@retrying
def test_a_torn_first_line_is_cut_off(tmp_path: Path, *, retry_errors: bool) -> None:
    path, line = tmp_path / "out.jsonl", result(1)
    for length in (*range(80), len(line) - 1):
        path.write_bytes(line[:length])
        opened(path, retry_errors=retry_errors)
        assert path.read_bytes() == b""


@retrying
def test_a_torn_later_line_is_cut_off(tmp_path: Path, *, retry_errors: bool) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(result(1) + b'{"id":"torn')
    first = path.read_bytes().splitlines(keepends=True)[0]
    seen = opened(path, retry_errors=retry_errors)
    assert path.read_bytes() == first
    assert seen.add_line("id request-1") == "answered"


def test_a_long_first_line_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    line = BatchLine(number=1, custom_id="long")
    body = b'{"text":"%s"}' % (b"x" * 3_000_000)
    path.write_bytes(answered(line, LineAnswer(200, body, "id")) + b"{")
    assert opened(path).add_line("id long") == "answered"


Table = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(**columns: list[Any]) -> Path:
        folder = tmp_path / "out"
        folder.mkdir()
        parquet.write_table(pyarrow.table(columns), folder / "part-00000.parquet")
        return folder

    return write


@retrying
@pytest.mark.parametrize(
    "columns",
    [
        {"error": [None, "{}"]},
        {"custom_id": ["a", "b"], "error": [None, "out of paper"]},
        {"custom_id": ["a", "b"], "error": [0, 1]},
        {"x": [1]},
    ],
    ids=["errors", "ids and errors", "ids and numbers", "others"],
)
def test_a_parquet_file_of_something_else_is_left_as_it_is(
    table: Table, columns: dict[str, list[Any]], *, retry_errors: bool
) -> None:
    folder = table(**columns)
    content = (folder / "part-00000.parquet").read_bytes()
    with pytest.raises(MllamaError, match="has no answers of a batch"):
        opened(folder, output_format="parquet", retry_errors=retry_errors)
    assert (folder / "part-00000.parquet").read_bytes() == content


def test_a_file_beside_its_parquet_form_is_removed_only_if_it_has_answers(
    tmp_path: Path,
) -> None:
    pytest.importorskip("pyarrow")
    output = tmp_path / "out"
    with Destination(str(output), "parquet").opened(SeenIds()) as writer:
        writer.write(result(1), is_error=False)
    lines = output / "part-00000.jsonl"
    lines.write_bytes(result(1))
    assert opened(output, output_format="parquet").add_line("id request-1")
    assert not lines.exists()
    lines.write_bytes(b'{"mine": true}\n')
    with pytest.raises(MllamaError, match="not an answer of a batch"):
        opened(output, output_format="parquet")
    assert lines.read_bytes() == b'{"mine": true}\n'
