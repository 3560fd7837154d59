"""Lines without an id are known by their file and their number in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mllama.batch.destination import Destination
from mllama.batch.inputs.question import Question
from mllama.batch.inputs.reader import InputReader
from mllama.batch.lines import BatchLine
from mllama.batch.run import BatchCounts, BatchRun, unanswered
from mllama.batch.seen_ids import SeenIds

from .test_run import answer

BAD = "{broken\n"


def good(name: str) -> str:
    line = {"custom_id": name, "url": "/v1/completions", "body": {"prompt": "x"}}
    return json.dumps(line) + "\n"


def run(
    lines: Iterable[BatchLine], output: Path, *, has_one_file: bool = False
) -> BatchCounts:
    seen, counts = SeenIds(), BatchCounts()
    with Destination(str(output)).opened(seen) as writer:
        rest = unanswered(lines, seen, counts, has_one_file=has_one_file)
        asyncio.run(BatchRun(rest, answer, writer, counts, concurrency=4).run())
    return counts


def read(source: Path, output: Path) -> BatchCounts:
    reader = InputReader(str(source), Question(None))
    return run(reader, output, has_one_file=reader.has_one_file)


def errors(output: Path) -> list[tuple[Any, Any]]:
    """Returns the files and the lines of the errors that an output has."""
    found = [json.loads(text)["error"] for text in output.open()]
    places = [(each.get("file"), each["line"]) for each in found if each]
    return sorted(places, key=str)


def old_error(number: int) -> str:
    """Returns the error of a line as it was written before files were named."""
    error = {"code": "invalid_json_line", "message": "Not valid JSON", "line": number}
    start = f'{{"id":"batch_req_{"0" * 32}","custom_id":null,"response":null,"error":'
    return f"{start}{json.dumps(error)}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "m.jsonl").write_text(good("one") + "\n" + BAD + good("two") + BAD)
    return folder


def test_a_file_that_a_folder_gets_changes_no_other_ones(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    assert read(folder, output).failed == 2
    assert errors(output) == [("m.jsonl", 3), ("m.jsonl", 5)]
    # One of them comes first, whatever the order of the file system.
    for name in "az":
        (folder / f"{name}.jsonl").write_text(BAD * 2 + good(f"{name} 3") + BAD)
    counts = read(folder, output)
    assert (counts.skipped, counts.answered, counts.failed) == (4, 2, 6)
    expected = [(f"{name}.jsonl", each) for name in "az" for each in (1, 2, 4)]
    assert errors(output) == sorted([("m.jsonl", 3), ("m.jsonl", 5), *expected])
    assert read(folder, output).skipped == 12


def test_another_file_has_errors_of_its_own(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    read(folder / "m.jsonl", output)
    (folder / "n.jsonl").write_text("\n\n" + BAD)
    assert read(folder / "n.jsonl", output).failed == 1
    assert errors(output) == [("m.jsonl", 3), ("m.jsonl", 5), ("n.jsonl", 3)]


def test_the_errors_that_a_file_had_before_files_were_named_are_known(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text(old_error(3))
    counts = read(folder / "m.jsonl", output)
    assert (counts.skipped, counts.failed) == (1, 1)
    assert errors(output) == [("m.jsonl", 5), (None, 3)]


def test_such_errors_of_several_files_are_written_once_more(
    folder: Path, tmp_path: Path
) -> None:
    """Their lines were counted on, in an order that may have been another one."""
    output = tmp_path / "out.jsonl"
    output.write_text(old_error(3))
    assert read(folder, output).failed == 2
    assert read(folder, output).failed == 0


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"nonsense")
    read(tmp_path / "*.gz", tmp_path / "out.jsonl")
    assert errors(tmp_path / "out.jsonl") == [("a.jsonl.gz", 1)]


def test_rows_of_parquet_without_an_id(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in "ab":
        table = pyarrow.table({"image": [b"1"] * 3, "key": [None, name, None]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    reader = InputReader(
        str(tmp_path / "*.parquet"), Question("What?"), id_column="key"
    )
    run(reader, tmp_path / "out.jsonl")
    expected = [(f"{name}.parquet", row) for name in "ab" for row in (1, 3)]
    assert errors(tmp_path / "out.jsonl") == expected
