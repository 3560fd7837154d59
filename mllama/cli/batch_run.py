"""Runs a batch in the terminal: progress, Ctrl-C, and the exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from mllama.errors import MllamaError

if TYPE_CHECKING:
    from mllama.batch.inputs.reader import InputReader
    from mllama.batch.lines import BatchLine
    from mllama.batch.run import AskLine, BatchCounts, BatchRun, ResultWriter

MODEL_FAILED: Final = 1
"""Exit code after the model has failed as a whole."""

PREPARED_PER_SLOT: Final = 2
"""Lines asked at a time for each place of the model's batch, as ``LLM.chat`` does."""


@dataclass
class TerminalBatch:
    """A batch whose user watches it.

    Attributes:
        lines: The lines.
        reader: Where they come from, which knows how far it is.
        writer: Keeps the answers.
        counts: Counts them.
        output: Where the answers are.
        max_errors: The most lines that may fail; None is any number.
        quiet: Whether to hide the progress.
    """

    lines: Iterable[BatchLine]
    reader: InputReader
    writer: ResultWriter
    counts: BatchCounts
    output: str
    max_errors: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        self._signal: int | None = None

    async def run(self, ask: AskLine, slots: int) -> int:
        """Has the lines answered, and returns the exit code.

        Args:
            ask: Has a line answered.  A RuntimeError says that the model has failed.
            slots: Lines that the model answers at a time.

        Raises:
            MllamaError: If too many fail, or a file can't be read or written.
        """
        from mllama.batch.progress import BatchProgress
        from mllama.batch.run import BatchRun, TooManyErrors

        run = BatchRun(
            self.lines,
            ask,
            self.writer,
            self.counts,
            concurrency=PREPARED_PER_SLOT * slots,
            max_errors=self.max_errors,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, number, run)
        output = self.output
        resume = f"run the same command again to go on; {output} has all answers so far"
        try:
            with BatchProgress(
                self.counts, lambda: self.reader.fraction, quiet=self.quiet
            ):
                await run.run()
        except TooManyErrors as error:
            raise MllamaError(
                f"more than {self.max_errors} lines failed (--max-errors), the first "
                f"one so: {error}; {output} has their errors"
            ) from None
        except asyncio.CancelledError:
            if self._signal is None:
                raise
        except RuntimeError as error:
            cause = error.__cause__ or error
            click.echo(f"error: the model failed: {cause}; {resume}", err=True)
            return MODEL_FAILED
        if self._signal is not None:
            click.echo(f"mllama: interrupted: {resume}", err=True)
            return 128 + self._signal
        if self.counts.failed:
            click.echo(
                f"mllama: {self.counts.failed:,} lines failed; {output} has their "
                "errors, and --retry-errors asks them again",
                err=True,
            )
        return 0

    def _interrupt(self, number: int, run: BatchRun) -> None:
        if self._signal is not None:
            run.cancel()
            return
        self._signal = number
        run.stop()
        click.echo(
            "\nmllama: ending after the answers that are being written; press Ctrl-C "
            "again to drop them",
            err=True,
        )
