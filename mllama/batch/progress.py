"""Progress of a batch on stderr: how much is done, at what rate, and until when."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from mllama.batch.run import BatchCounts
from mllama.utils.progress import ProgressDisplay


class BatchProgress(ProgressDisplay):
    """A display of how far a batch is.

    Args:
        counts: How far it is.
        fraction: Returns the part of the input that has been read, if that is known.
        quiet: Whether to show nothing.
        stream: The stream to write to; stderr by default.
    """

    def __init__(
        self,
        counts: BatchCounts,
        fraction: Callable[[], float | None],
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(stream, quiet=quiet)
        self._counts = counts
        self._fraction = fraction
        self._started = time.monotonic()
        self._bar = self._new_bar(
            "mllama: batch",
            bar_format="{desc}",
            delay=0 if self._is_terminal else self._interval,
        )

    def _tick(self) -> None:
        self._show()
        self._bar.update(0)

    def _end(self, *, finished: bool) -> None:
        self._show(is_over=True)
        self._bar.delay = 0
        self._bar.close()

    def _show(self, *, is_over: bool = False) -> None:
        elapsed = time.monotonic() - self._started
        text = describe(self._counts, None if is_over else self._fraction(), elapsed)
        self._bar.set_description_str(f"mllama: {text}", refresh=False)


def describe(counts: BatchCounts, fraction: float | None, elapsed: float) -> str:
    """Returns how far a batch is, in one line.

    Args:
        counts: How far it is.
        fraction: The part of the input that has been read; None if unknown.
        elapsed: Seconds since it began.
    """
    parts = [f"{counts.answered:,} answered"]
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    if counts.skipped:
        parts.append(f"{counts.skipped:,} answered before")
    if counts.done and elapsed > 0:
        parts.append(f"{counts.done / elapsed:.3g} lines/s")
        parts.append(f"{counts.tokens / elapsed:.3g} tokens/s")
    if fraction and counts.done:
        total = max(counts.read / fraction, counts.skipped + counts.done)
        done = counts.skipped + counts.done
        left = (total - done) / counts.done * elapsed
        parts.append(f"{100 * done / total:.0f} %, {_duration(left)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
