"""Checks the whole input of a batch before any of it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mllama.batch.lines import BatchLine, LineError, read_lines
from mllama.batch.results import identity_of
from mllama.server.batches.line_bounds import bound_error
from mllama.server.batches.records import BatchProblem, BatchRecord
from mllama.server.batches.stores import BatchStores

_MOST_PROBLEMS: Final = 50
"""Wrong lines that the errors of a batch name."""


@contextmanager
def open_lines(
    batch: BatchRecord, stores: BatchStores
) -> Iterator[Iterator[BatchLine]]:
    """Opens the input of a batch, and yields its lines."""
    path = stores.files.content_path(batch.input_file_id)
    with path.open("rb") as file:
        yield read_lines(file, bound_error)


def check_input(batch: BatchRecord, stores: BatchStores) -> list[BatchProblem]:
    """Returns what is wrong with the input of a batch, and counts its lines."""
    problems: list[BatchProblem] = []
    ids: set[str] = set()
    total = 0
    with open_lines(batch, stores) as lines:
        for line in lines:
            total += 1
            if total > stores.options.max_lines:
                problem = _too_many(stores.options.max_lines)
                return [problem, *problems][:_MOST_PROBLEMS]
            error = line.error or _error_of(line, batch.endpoint, ids)
            if error is not None and len(problems) < _MOST_PROBLEMS:
                problems.append(
                    BatchProblem(
                        code=error.code,
                        message=error.message,
                        line=line.number,
                        param=error.param,
                    )
                )
    if not total:
        problems.append(
            BatchProblem(code="empty_file", message="The input file is empty.")
        )
    batch.request_counts.total = total
    return problems


def _error_of(line: BatchLine, endpoint: str, ids: set[str]) -> LineError | None:
    if line.url != endpoint:
        return LineError(
            "mismatched_endpoint",
            f"`url` must be the batch's endpoint {endpoint!r}, not {line.url[:80]!r}.",
            "url",
        )
    identity = identity_of(line)
    if identity in ids:
        return LineError(
            "duplicate_custom_id",
            "Another line has the same `custom_id`; each needs one of its own.",
            "custom_id",
        )
    ids.add(identity)
    return None


def _too_many(most: int) -> BatchProblem:
    return BatchProblem(
        code="too_many_tasks",
        message=f"The input file has more than {most:,} lines, as many as the server "
        "takes (--batch-max-lines).",
    )
