"""Lines with the same id: the first one has an answer, and each other one an error."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mllama.batch.destination import Destination
from mllama.batch.lines import BatchLine
from mllama.batch.results import LineAnswer
from mllama.batch.seen_ids import SeenIds

from .test_run import ANSWER, line, run


def lines(count: int) -> list[BatchLine]:
    return [line(number, custom_id="A") for number in range(1, count + 1)]


def outcomes(output: Path) -> Counter[str]:
    """Returns how many answers and how many errors of which code an output has."""
    errors = [json.loads(text)["error"] for text in output.open()]
    return Counter("answer" if error is None else error["code"] for error in errors)


def keep(output: Path, wanted: str, count: int) -> None:
    """Leaves what a run has written that was killed: so many errors, or the answer."""
    texts = [text for text in output.open() if f'"{wanted}"' in text]
    output.write_text("".join(texts[:count]))


@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_run_that_was_killed_before_the_answer_to_the_first(
    tmp_path: Path, written: int
) -> None:
    output, asked = tmp_path / "out.jsonl", []
    run(lines(4), output)
    keep(output, "duplicate_custom_id", written)
    assert outcomes(output) == {"duplicate_custom_id": written}

    async def ask(line: BatchLine) -> LineAnswer:
        asked.append(line.custom_id)
        return ANSWER

    counts = run(lines(4), output, ask)
    assert asked == ["A"]
    assert (counts.skipped, counts.answered) == (written, 1)
    assert outcomes(output) == {"answer": 1, "duplicate_custom_id": 3}
    assert run(lines(4), output).skipped == 4


def test_a_run_that_was_killed_before_the_errors_of_repeats(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(lines(4), output)
    keep(output, "status_code", 1)
    assert outcomes(output) == {"answer": 1}
    assert run(lines(4), output).skipped == 1
    assert outcomes(output) == {"answer": 1, "duplicate_custom_id": 3}


def test_parquet_knows_the_errors_of_repeats(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    run(lines(3), tmp_path / "whole.jsonl")
    keep(tmp_path / "whole.jsonl", "duplicate_custom_id", 2)
    output = tmp_path / "out"
    for _ in range(2):
        seen = SeenIds()
        with Destination(str(output), "parquet").opened(seen) as writer:
            for text in (tmp_path / "whole.jsonl").open("rb"):
                writer.write(text, is_error=True)
        (tmp_path / "whole.jsonl").write_text("")
    verdicts = [seen.add_line("id A") for _ in range(4)]
    assert verdicts == ["new", "answered", "answered", "repeated"]


def test_answers_of_the_same_id_are_left_alone(tmp_path: Path) -> None:
    """As in two outputs that somebody has joined."""
    output = tmp_path / "out.jsonl"
    run(lines(1), output)
    output.write_text(output.read_text() * 2)
    assert run(lines(3), output).skipped == 2
    assert outcomes(output) == {"answer": 2, "duplicate_custom_id": 1}
