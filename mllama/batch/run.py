"""Runs a batch: reads lines, has each answered, and writes its answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from mllama.batch.lines import BatchLine, LineError
from mllama.batch.read_ahead import MAX_BYTES, MAX_LINES, ReadAhead
from mllama.batch.results import (
    REPEATED_ID,
    LineAnswer,
    answered,
    failed,
    identity_of,
    old_identity_of,
)
from mllama.batch.seen_ids import SeenIds

AskLine = Callable[[BatchLine], Awaitable[LineAnswer]]
"""Has a line answered.  What it raises ends the batch."""


DoWrite = Callable[[Callable[[], None]], Awaitable[None]]
"""Has a write done."""


class ResultWriter(Protocol):
    """Keeps the lines of answers."""

    def write(self, result: bytes, *, is_error: bool) -> None:
        """Writes a line.

        Raises:
            MllamaError: If it can't be written.
        """
        ...


@dataclass
class BatchCounts:
    """How far a batch is.

    Attributes:
        read: Lines that have been read.
        skipped: Those that an earlier run has answered.
        answered: Answers of this run.
        failed: Errors of this run.
        tokens: Tokens of its answers.
        first_error: The first error's message.
    """

    read: int = 0
    skipped: int = 0
    answered: int = 0
    failed: int = 0
    tokens: int = 0
    first_error: str | None = None

    @property
    def done(self) -> int:
        """Returns the number of lines that this run has written."""
        return self.answered + self.failed


class TooManyErrors(Exception):
    """More lines have failed than a batch may have."""


def unanswered(
    lines: Iterable[BatchLine],
    seen: SeenIds,
    counts: BatchCounts,
    *,
    has_one_file: bool = False,
) -> Generator[BatchLine, None, None]:
    """Yields the lines of an input that have no answer yet.

    Args:
        lines: The input.
        seen: What has been answered; the lines are added.
        counts: Counts what is read and left out.
        has_one_file: Whether the lines of the input are those of one file, so that they
            have the numbers by which older versions knew lines without an id.
    """
    for line in lines:
        counts.read += 1
        old_identity = old_identity_of(line) if has_one_file else None
        verdict = seen.add_line(identity_of(line), old_identity)
        if verdict == "answered":
            counts.skipped += 1
        else:
            yield line if verdict == "new" else _repeated(line)


class BatchRun:
    """Answers lines, several at a time.

    Args:
        lines: The lines.  A thread iterates over them.
        ask: Has a line answered.
        writer: Keeps the answers.
        counts: Counts the answers.
        concurrency: Lines that are asked at a time.
        max_errors: The most lines that may fail; None is any number.
        max_lines: The most lines that are read ahead.
        max_bytes: The most bytes of them.
        do_write: Has an answer written, elsewhere than on the event loop; None writes
            there.
    """

    def __init__(
        self,
        lines: Iterable[BatchLine],
        ask: AskLine,
        writer: ResultWriter,
        counts: BatchCounts,
        *,
        concurrency: int,
        max_errors: int | None = None,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
        do_write: DoWrite | None = None,
    ) -> None:
        self._do_write = do_write
        self._lines = lines
        self._ask = ask
        self._writer = writer
        self._counts = counts
        self._concurrency = concurrency
        self._max_errors = max_errors
        self._limits = {"max_lines": max_lines, "max_bytes": max_bytes}
        self._window: ReadAhead | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Returns True if it was told to stop."""
        return self._is_stopped

    async def run(self) -> None:
        """Answers the lines.

        Raises:
            TooManyErrors: If too many lines failed.  Those that ran have been answered.
            MllamaError: If the input can't be read, or the output not written.
            asyncio.CancelledError: After :meth:`cancel`.
        """
        window = ReadAhead(asyncio.get_running_loop(), **self._limits)
        self._window = window
        if self._is_stopped:
            window.clear()
        reader = threading.Thread(
            target=self._read, args=[window], name="mllama-batch-input", daemon=True
        )
        reader.start()
        self._tasks = [
            asyncio.ensure_future(self._answer_lines(window))
            for _ in range(self._concurrency)
        ]
        try:
            await asyncio.gather(*self._tasks)
        finally:
            window.clear()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # It may wait for its input, such as a terminal's or a pipe's.
            await asyncio.to_thread(reader.join, _END_SECONDS)
        if self._failure is not None:
            raise self._failure
        if self._has_too_many_errors():
            raise TooManyErrors(self._counts.first_error)

    def stop(self) -> None:
        """Asks no more lines.  Those that run are answered."""
        self._is_stopped = True
        if self._window is not None:
            self._window.clear()

    def cancel(self) -> None:
        """Ends at once.  Lines that run have no answer."""
        self.stop()
        for task in self._tasks:
            task.cancel()

    def _read(self, window: ReadAhead) -> None:
        """Reads the input, in a thread of its own."""
        try:
            for line in self._lines:
                if not window.put(line):
                    break
        except BaseException as error:
            self._failure = error
        finally:
            window.end()

    async def _answer_lines(self, window: ReadAhead) -> None:
        while (line := await window.take()) is not None:
            error = line.error
            if error is None:
                answer = await self._ask(line)
                await self._write(answered(line, answer), is_error=answer.is_error)
                self._count(answer)
            else:
                await self._write(failed(line, error), is_error=True)
                self._count_error(error.message)
            if self._has_too_many_errors():
                self.stop()
                return

    async def _write(self, result: bytes, *, is_error: bool) -> None:
        write = partial(self._writer.write, result, is_error=is_error)
        if self._do_write is None:
            write()
        else:
            await self._do_write(write)

    def _count(self, answer: LineAnswer) -> None:
        if answer.is_error:
            self._count_error(answer.error_message)
            return
        self._counts.answered += 1
        self._counts.tokens += answer.completion_tokens

    def _count_error(self, message: str) -> None:
        self._counts.failed += 1
        if self._counts.first_error is None:
            self._counts.first_error = message

    def _has_too_many_errors(self) -> bool:
        return self._max_errors is not None and self._counts.failed > self._max_errors


_END_SECONDS = 5.0
"""How long the end of a batch waits for its reader."""


def _repeated(line: BatchLine) -> BatchLine:
    error = LineError(
        REPEATED_ID,
        f"Another line has the `custom_id` {str(line.custom_id)[:80]!r}; each needs "
        "one of its own.",
        "custom_id",
    )
    return BatchLine(
        number=line.number,
        custom_id=line.custom_id,
        error=error,
        file=line.file,
        place=line.place,
    )
