"""One batch of the server: checked, answered, and its answers made files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from typing import Final

from mllama.batch.lines import BatchLine, LineError
from mllama.batch.results import LineAnswer, failed
from mllama.batch.run import BatchCounts, BatchRun, unanswered
from mllama.batch.seen_ids import SeenIds
from mllama.errors import MllamaError
from mllama.server.batches.input_check import check_input, open_lines
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.batches.owners import client_of_owner
from mllama.server.batches.records import BatchProblem, BatchRecord, now
from mllama.server.batches.result_files import (
    BatchResults,
    StorageFullError,
    keep_result_files,
    name_result_files,
)
from mllama.server.batches.spare_slots import SpareSlots
from mllama.server.batches.stores import BatchStores
from mllama.server.clients import working_for

_AGAIN: Final = frozenset({429, 503})
"""Statuses that say that the engine can't answer now."""

_FAILED: Final = 500
_MOST_FAILURES: Final = 3
"""How often a line on which the engine fails is asked: it may have died on another."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_PAUSE: Final = 5.0
"""Seconds until a full disk is tried again."""

_EXPIRED: Final = LineError(
    "batch_expired",
    "This request could not be executed before the completion window expired.",
)


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
        """Ends the batch, with the files that it has already.

        Raises:
            OSError: If its state can't be written.
        """
        batch, files = self.batch, self._stores.files
        batch.errors = problems
        if files.find(batch.output_file_id) is None:
            batch.output_file_id = None
        if files.find(batch.error_file_id) is None:
            batch.error_file_id = None
        batch.enter("failed")
        self._save()

    async def run(self) -> None:
        """Runs the batch until it has ended.

        While the disk is full, it waits for the room that the batch's end takes.

        Raises:
            OSError: If the disk fails.
        """
        batch = self.batch
        if batch.status == "validating":
            problems = await asyncio.to_thread(check_input, batch, self._stores)
            if batch.status == "validating" and problems:
                await self._when_there_is_room(lambda: self.fail(problems))
                return
        if batch.status != "finalizing":
            if batch.status == "validating":
                batch.enter("in_progress")
                await self._when_there_is_room(self._save)
            try:
                await self._answer()
            # The disk may be full as well.
            except (StorageFullError, MllamaError) as error:
                problem = BatchProblem(
                    code="storage_limit_exceeded", message=str(error)
                )
                batch.errors, batch.ends_as = [problem], "failed"
            await self._stores.disk.run(lambda: name_result_files(batch, self._stores))
            if self._is_cancelled:
                batch.ends_as = "cancelled"
            batch.enter("finalizing")
            await self._when_there_is_room(self._save)
        await self._when_there_is_room(lambda: keep_result_files(batch, self._stores))
        batch.enter(batch.ends_as)
        await self._when_there_is_room(self._save)

    async def _answer(self) -> None:
        """Answers the lines that have no answer yet."""
        batch, counts = self.batch, BatchCounts()
        with contextlib.closing(SeenIds()) as seen:
            results = await asyncio.to_thread(self._open_results, seen)
            try:
                if self._is_cancelled:
                    return
                with contextlib.ExitStack() as opened:
                    source = await asyncio.to_thread(
                        opened.enter_context, open_lines(batch, self._stores)
                    )
                    if self._is_cancelled:
                        return
                    lines = unanswered(source, seen, counts)
                    self._run = BatchRun(
                        lines,
                        self._ask,
                        results,
                        counts,
                        concurrency=self._slots.most_slots,
                        max_lines=1000,
                        max_bytes=32 * 2**20,
                        do_write=self._stores.disk.run,
                    )
                    try:
                        with working_for(client_of_owner(batch.owner)):
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
                await self._stores.disk.run(results.close)

    def _open_results(self, seen: SeenIds) -> BatchResults:
        """Returns what writes the answers, after those of an earlier server."""
        results = BatchResults(self.batch, self._stores, self._save)
        results.add_to(seen)
        return results

    def _expire_rest(self, results: BatchResults) -> None:
        """Writes an error for each line that has no answer."""
        with (
            contextlib.closing(SeenIds()) as seen,
            open_lines(self.batch, self._stores) as lines,
        ):
            results.add_to(seen)
            for line in unanswered(lines, seen, BatchCounts()):
                results.write(failed(line, _EXPIRED), is_error=True)

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

    def _save(self) -> None:
        self._stores.batches.save(self.batch)

    async def _when_there_is_room(self, write: Callable[[], None]) -> None:
        """Writes to the disk, again and again while it is full.

        Args:
            write: Does it; that it has been tried before does no harm.

        Raises:
            OSError: If the disk fails in another way.
        """
        while True:
            try:
                await self._stores.disk.run(write)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
            else:
                return
            await asyncio.sleep(_FULL_PAUSE)
