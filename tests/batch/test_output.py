"""Outputs are files or folders of shards, which one run at a time writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama.batch.destination import Destination
from mllama.batch.lines import BatchLine, LineError
from mllama.batch.output import JsonLines
from mllama.batch.results import LineAnswer, answered, failed
from mllama.batch.seen_ids import SeenIds
from mllama.errors import MllamaError


def result(number: int) -> bytes:
    body = {
        "choices": [
            {"message": {"content": f"answer {number}"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": number},
    }
    line = BatchLine(number=number, custom_id=f"request-{number}")
    return answered(line, LineAnswer(200, json.dumps(body).encode(), "id"))


def write(output: Path, numbers: Iterator[int] | range, **options: Any) -> SeenIds:
    seen = SeenIds()
    with Destination(str(output), **options).opened(seen) as writer:
        for number in numbers:
            writer.write(result(number), is_error=False)
    return seen


def killed(numbers: range) -> Iterator[int]:
    yield from numbers
    raise KeyboardInterrupt


def test_a_folder_has_shards(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, range(1, 6), shard_lines=2)
    write(output, range(6, 8), shard_lines=2)
    shards = sorted(path.name for path in output.glob("part-*"))
    assert shards == [f"part-0000{each}.jsonl" for each in range(4)]
    lengths = [len((output / name).read_text().splitlines()) for name in shards]
    assert lengths == [2, 2, 2, 1]


def test_what_a_folder_has_is_known(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, range(1, 6), shard_lines=2)
    seen = write(output, range(0))
    assert seen.add_line("id request-5") == "answered"
    assert seen.add_line("id request-5") == "repeated"
    assert seen.add_line("id request-6") == "new"


def test_parquet_shards_are_complete_and_continued(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "out"
    options = {"output_format": "parquet", "shard_lines": 3}
    with pytest.raises(KeyboardInterrupt):
        write(output, killed(range(1, 5)), **options)
    # Until it is complete, a shard can be appended to.
    assert sorted(each.name for each in output.glob("part-*")) == [
        "part-00000.parquet",
        "part-00001.jsonl",
    ]
    seen = write(output, range(5, 8), **options)
    assert seen.add_line("id request-1") == "answered"
    assert seen.add_line("id request-4") == "answered"
    assert sorted(each.name for each in output.glob("part-*")) == [
        f"part-0000{each}.parquet" for each in range(3)
    ]
    rows = [
        row
        for each in range(3)
        for row in parquet.read_table(output / f"part-0000{each}.parquet").to_pylist()
    ]
    assert [row["custom_id"] for row in rows] == [f"request-{n}" for n in range(1, 8)]
    assert rows[2] | {"response": None} == {
        "custom_id": "request-3",
        "status_code": 200,
        "text": "answer 3",
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "response": None,
        "error": None,
    }
    with pytest.raises(MllamaError, match="--output-format parquet"):
        write(output, range(0))


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    for output in (tmp_path / "out.jsonl", tmp_path / "out"):
        with (
            Destination(str(output)).opened(SeenIds()),
            pytest.raises(MllamaError, match="another run writes"),
            Destination(str(output)).opened(SeenIds()),
        ):
            pass
        # Once the first one has ended, another can go on.
        write(output, range(1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("s3://bucket/out", {}, "of this machine"),
        ("-", {}, "of this machine"),
        ("out.parquet", {}, r"\*\.jsonl"),
        ("out.csv", {}, r"\*\.jsonl"),
        ("out.jsonl", {"shard_lines": 3}, "--shard-lines needs a folder"),
        ("out.jsonl", {"output_format": "parquet"}, "needs a folder"),
        ("/dev/null", {}, "neither a file nor a folder"),
    ],
)
def test_an_impossible_output_is_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MllamaError, match=message):
        Destination(name, **options)


def test_a_disk_that_is_full_ends_the_run(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "out.jsonl")
    lines._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(MllamaError, match="can't be written: No space left"):
        lines.write(result(1), is_error=False)
    lines._file.close()


def test_a_line_that_the_disk_has_no_room_for_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines, first = JsonLines(path), result(1)
    lines.write(first, is_error=False)
    file: Any = lines._file

    class FullDisk:
        """Takes ten bytes more."""

        def __init__(self) -> None:
            self.room = 10

        def write(self, content: memoryview) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            written: int = file.write(content[: self.room])
            self.room -= written
            return written

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

    lines._file = FullDisk()  # type: ignore[assignment]
    with pytest.raises(MllamaError, match="No space left"):
        lines.write(result(2), is_error=False)
    lines.close()
    assert path.read_bytes() == first


def mixed(output: Path, numbers: range, **options: Any) -> None:
    """Writes answers, of which each third is an error of the server or of a line."""
    with Destination(str(output), **options).opened(SeenIds()) as writer:
        for number in numbers:
            line = BatchLine(number=number, custom_id=f"request-{number}")
            text = result(number)
            if number % 6 == 3:
                error = LineAnswer(500, b'{"error":{"message":"no"}}', "id")
                text = answered(line, error)
            elif number % 6 == 0:
                text = failed(replace(line, custom_id=None), LineError("bad", "wrong"))
            writer.write(text, is_error=not number % 3)


def retried(output: Path, **options: Any) -> set[int]:
    """Returns the numbers of the lines that a run with --retry-errors would ask."""
    seen = SeenIds()
    with Destination(str(output), **options).opened(seen, retry_errors=True) as writer:
        asked = {
            number
            for number in range(1, 13)
            if seen.add_line(
                f"line {number}" if number % 6 == 0 else f"id request-{number}"
            )
            == "new"
        }
        for number in sorted(asked):
            writer.write(result(number), is_error=False)
    return asked


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out.jsonl", {}),
        ("out", {"shard_lines": 5}),
        ("out", {"shard_lines": 5, "output_format": "parquet"}),
    ],
    ids=["file", "shards", "parquet"],
)
def test_errors_are_asked_again_if_wanted(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    if "output_format" in options:
        pytest.importorskip("pyarrow")
    output = tmp_path / name
    mixed(output, range(1, 13), **options)
    assert write(output, range(0), **options).add_line("id request-3") == "answered"
    assert retried(output, **options) == {3, 6, 9, 12}
    seen = write(output, range(0), **options)
    for number in range(1, 13):
        assert seen.add_line(f"id request-{number}") == "answered"
        assert seen.add_line(f"id request-{number}") == "repeated"
    # The errors of lines without an id were removed, too.
    assert seen.add_line("line 6") == "new"


def test_an_output_without_errors_is_left_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    write(output, range(1, 4))
    before = output.stat()
    assert retried(output) == {*range(4, 13)}
    assert output.stat().st_ino == before.st_ino


def test_errors_are_not_looked_for_in_other_files(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(result(1) + b'{"error": {}, "mine": true}\n')
    before = output.read_bytes()
    with pytest.raises(MllamaError, match=r"line 2 of .* is not an answer of a batch"):
        retried(output)
    assert output.read_bytes() == before


def test_a_first_run_may_retry_errors(tmp_path: Path) -> None:
    assert retried(tmp_path / "new" / "out.jsonl") == {*range(1, 13)}
    assert retried(tmp_path / "folder") == {*range(1, 13)}
