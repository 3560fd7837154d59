"""A run's file is read as it was written, and other files are rejected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.compare.results import Results


def results() -> Results:
    found = Results(date="2026-11-25T00:00:00+00:00", command="x", machine={"cores": 2})
    for value in (3.0, 1.0, 2.0):
        found.add("vision_4_tiles", "mllama", value)
    found.fail("decode_image", "mistralrs", "the process ended")
    found.growth = {"tiles": {"first token": [[1.0, 2.0]]}}
    return found


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results().write(path)
    assert Results.read(path) == results()


def test_the_median_is_of_all_samples() -> None:
    assert results().median("vision_4_tiles", "mllama") == 2.0
    assert results().median("vision_4_tiles", "transformers") is None
    assert results().median("unknown", "mllama") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "schema"),
        ({"more": 1}, "more"),
        ({"samples": {"a": {"b": []}}}, "numbers"),
        ({"samples": {"a": {"b": ["1"]}}}, "numbers"),
    ],
)
def test_malformed_files_are_rejected(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "results.json"
    results().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Results.read(path)
