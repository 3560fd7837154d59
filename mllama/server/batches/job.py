"""One batch of the server: checked, answered, and its answers made files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mllama.batch.lines import BatchLine, LineError, read_lines
from mllama.batch.output import JsonLines
from mllama.batch.results import LineAnswer, failed, identity_of
from mllama.batch.run import BatchCounts, BatchRun, unanswered
from mllama.batch.seen_ids import SeenIds
from mllama.errors import MllamaError
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.batches.records import (
    BatchProblem,
    BatchRecord,
    FileRecord,
    new_id,
    now,
)
from mllama.server.batches.spare_slots import SpareSlots
from mllama.server.batches.stores import BatchStores
from mllama.server.bodies.rejection import RequestRejected

_MOST_PROBLEMS: Final = 50
"""Wrong lines that the errors of a batch name."""

_AGAIN: Final = frozenset({429, 503})
"""Statuses that say that the engine can't answer now."""

_FAILED: Final = 500
_MOST_FAILURES: Final = 3
"""How often a line on which the engine fails is asked: it may have died on another."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_SAVE_SECONDS: Final = 1.0
"""How often the counts of a batch are written."""

_EXPIRED: Final = LineError(
    "batch_expired",
    "This request could not be executed before the completion window expired.",
)


class StorageFullError(Exception):
    """The answers of a batch don't fit the server's folder."""


class BatchJob:
    """Takes a batch from the state it is in to its end.

    Attributes:
        batch: The batch.

    Args:
        batch: The batch.
        stores: Files and batches.
        answers: Has a line answered.
        slots: Says when.
    """

    def __init__(
        self,
        batch: BatchRecord,
        stores: BatchStores,
        answers: LineAnswers,
        slots: SpareSlots,
    ) -> None:
        self.batch = batch
        self._stores = stores
        self._answers = answers
        self._slots = slots
        self._run: BatchRun | None = None

    def cancel(self) -> None:
        """Ends the batch soon; :meth:`run` makes files of the answers so far."""
        if self._run is not None:
            self._run.cancel()

    @property
    def _is_cancelled(self) -> bool:
        return self.batch.status == "cancelling"

    def fail(self, problems: list[BatchProblem]) -> None:
        """Ends the batch without answers.

        Raises:
            OSError: If its state can't be written.
        """
        self.batch.errors = problems
        self.batch.enter("failed")
        self._save()

    async def run(self) -> None:
        """Runs the batch until it has ended.

        Raises:
            OSError: If the disk fails.
        """
        batch = self.batch
        if batch.status == "validating":
            problems = await asyncio.to_thread(self._check)
            if batch.status == "validating" and problems:
                self.fail(problems)
                return
        if batch.status != "finalizing":
            if batch.status == "validating":
                batch.enter("in_progress")
                self._save()
            try:
                await self._answer()
            # The disk may be full as well.
            except (StorageFullError, MllamaError) as error:
                problem = BatchProblem(
                    code="storage_limit_exceeded", message=str(error)
                )
                batch.errors, batch.ends_as = [problem], "failed"
            self._begin_end()
        self._end()

    def _check(self) -> list[BatchProblem]:
        """Returns what is wrong with the input, and counts its lines."""
        problems: list[BatchProblem] = []
        ids: set[str] = set()
        total = 0
        with self._open_lines() as lines:
            for line in lines:
                total += 1
                if total > self._stores.options.max_lines:
                    problem = _too_many(self._stores.options.max_lines)
                    return [problem, *problems][:_MOST_PROBLEMS]
                error = line.error or self._error_of(line, ids)
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
        self.batch.request_counts.total = total
        return problems

    def _error_of(self, line: BatchLine, ids: set[str]) -> LineError | None:
        if line.url != self.batch.endpoint:
            return LineError(
                "mismatched_endpoint",
                f"`url` must be the batch's endpoint {self.batch.endpoint!r}, not "
                f"{line.url[:80]!r}.",
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

    @contextlib.contextmanager
    def _open_lines(self) -> Iterator[Iterator[BatchLine]]:
        path = self._stores.files.content_path(self.batch.input_file_id)
        with path.open("rb") as file:
            yield read_lines(file)

    async def _answer(self) -> None:
        """Answers the lines that have no answer yet."""
        seen, batch = SeenIds(), self.batch
        results = await asyncio.to_thread(self._open_results, seen)
        counts = BatchCounts()
        try:
            if self._is_cancelled:
                return
            with self._open_lines() as source:
                lines = unanswered(source, seen, counts)
                self._run = BatchRun(
                    lines,
                    self._ask,
                    results,
                    counts,
                    concurrency=self._slots.slots,
                    max_lines=1000,
                    max_bytes=32 * 2**20,
                )
                try:
                    await asyncio.wait_for(
                        self._run.run(), max(0, batch.expires_at - now())
                    )
                except (TimeoutError, asyncio.TimeoutError):
                    batch.ends_as = "expired"
                except asyncio.CancelledError:
                    # Otherwise the server ends.
                    if not self._is_cancelled:
                        raise
            if batch.ends_as == "expired":
                await asyncio.to_thread(self._expire_rest, results)
        finally:
            results.close()
            seen.close()

    def _open_results(self, seen: SeenIds) -> _Results:
        """Returns what writes the answers, after those of an earlier server."""
        results = _Results(self.batch, self._stores, self._save)
        results.add_to(seen)
        return results

    def _expire_rest(self, results: _Results) -> None:
        """Writes an error for each line that has no answer."""
        seen = SeenIds()
        results.add_to(seen)
        with self._open_lines() as lines:
            for line in unanswered(lines, seen, BatchCounts()):
                results.write(failed(line, _EXPIRED), is_error=True)
        seen.close()

    async def _ask(self, line: BatchLine) -> LineAnswer:
        pause, failures = _FIRST_PAUSE, 0
        while True:
            answer = await self._slots.run(lambda: self._answers(line))
            failures += answer.status == _FAILED
            can_answer = answer.status not in (*_AGAIN, _FAILED)
            if can_answer or failures >= _MOST_FAILURES:
                return answer
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _begin_end(self) -> None:
        """Notes which files the answers become, before they do."""
        batch = self.batch
        if self._is_cancelled:
            batch.ends_as = "cancelled"
        for of_errors in (False, True):
            path = self._stores.results_path(batch, of_errors=of_errors)
            if path.exists() and path.stat().st_size:
                name = "error_file_id" if of_errors else "output_file_id"
                setattr(batch, name, new_id("file-"))
        batch.enter("finalizing")
        self._save()

    def _end(self) -> None:
        """Makes files of the answers and of the errors."""
        batch = self.batch
        for file_id, of_errors in (
            (batch.output_file_id, False),
            (batch.error_file_id, True),
        ):
            path = self._stores.results_path(batch, of_errors=of_errors)
            if file_id is not None:
                self._adopt(path, file_id, "error" if of_errors else "output")
            path.unlink(missing_ok=True)
        batch.enter(batch.ends_as)
        self._save()

    def _adopt(self, path: Path, file_id: str, kind: str) -> None:
        files = self._stores.files
        content = path if path.exists() else files.content_path(file_id)
        files.adopt(
            path,
            FileRecord(
                id=file_id,
                owner=self.batch.owner,
                bytes=content.stat().st_size,
                filename=f"{self.batch.id}_{kind}.jsonl",
                purpose="batch_output",
                expires_at=now() + self.batch.output_seconds,
            ),
        )

    def _save(self) -> None:
        self._stores.batches.save(self.batch)


class _Results:
    """The answers and the errors of a batch that runs, in a file each."""

    def __init__(
        self, batch: BatchRecord, stores: BatchStores, save: Callable[[], None]
    ) -> None:
        self._batch = batch
        self._stores = stores
        self._save = save
        self._saved = time.monotonic()
        self._files = [
            JsonLines(stores.results_path(batch, of_errors=of_errors))
            for of_errors in (False, True)
        ]

    def add_to(self, seen: SeenIds) -> None:
        """Notes what has been answered, and counts it."""
        counts = []
        for file in self._files:
            count = 0
            for identity in file.identities():
                seen.add_answer(identity)
                count += 1
            counts.append(count)
        self._batch.request_counts.completed, self._batch.request_counts.failed = counts

    def write(self, result: bytes, *, is_error: bool) -> None:
        """Writes an answer or an error, and counts it.

        Raises:
            StorageFullError: If there is no room.
        """
        try:
            self._stores.files.reserve(len(result))
        except RequestRejected as error:
            raise StorageFullError(str(error)) from None
        self._files[is_error].write(result, is_error=is_error)
        counts = self._batch.request_counts
        if is_error:
            counts.failed += 1
        else:
            counts.completed += 1
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self._saved = time.monotonic()
            self._save()

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()


def _too_many(most: int) -> BatchProblem:
    return BatchProblem(
        code="too_many_tasks",
        message=f"The input file has more than {most:,} lines, as many as the server "
        "takes (--batch-max-lines).",
    )
