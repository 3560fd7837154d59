"""Rows of a dataset of Ray are lines, also those without an id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mllama.batch.run import BatchCounts
from mllama.cluster.dataset_rows import DatasetRows
from tests.batch.test_lines_without_ids import errors, run


class Rows:
    """A dataset of Ray's, in an order of its own each time."""

    def __init__(self, *ids: str | None) -> None:
        self.ids = ids

    def columns(self) -> list[str]:
        return ["key", "text"]

    def iter_rows(self) -> Iterable[dict[str, Any]]:
        return ({"key": each, "text": "What?"} for each in self.ids)


def test_rows_of_a_dataset_without_an_id_are_counted(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"

    def answered(*ids: str | None) -> BatchCounts:
        rows: Any = Rows(*ids)
        lines = DatasetRows(rows, None, None, "text", "key", None, None).lines()
        return run(lines, output)

    assert answered("a", None, "b", None).failed == 2
    assert answered(None, "b", "a", None).skipped == 4
    counts = answered("c", "b", "a", None, None, None)
    assert (counts.skipped, counts.answered, counts.failed) == (4, 1, 1)
    assert errors(output) == [(None, 1), (None, 2), (None, 3)]
