"""Progress in bytes on stderr, of downloads and of quantization."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from threading import RLock
from typing import Any, TextIO

from mllama.utils.progress import ProgressDisplay

_RUNNING = "{desc}: {percentage:.0f}% of {total_fmt}B, {rate_fmt}{postfix}"
_DONE = "{desc}: done in {elapsed_s:.0f} s ({n_fmt}B, {rate_fmt})"
_STOPPED = "{desc}: stopped after {elapsed_s:.0f} s ({n_fmt}B of {total_fmt}B)"

_BYTES: dict[str, Any] = {"unit": "B", "unit_scale": True}


class ByteProgress(ProgressDisplay):
    """A display of how many bytes an operation has processed, and at what rate.

    Args:
        title: The operation, as in "quantizing to q4_k".
        total: Bytes to process.
        quiet: Whether to show nothing.
        stream: The stream to write to; stderr by default.
    """

    def __init__(
        self,
        title: str,
        total: int = 0,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(stream, quiet=quiet)
        self._bar = self._new_bar(
            f"mllama: {title}",
            total=total,
            bar_format=None if self._is_terminal else _RUNNING,
            delay=0 if self._is_terminal else self._interval,
            **_BYTES,
        )
        self._files: dict[FileProgress, Any] = {}
        self._step = ""

    def show(self, step: str, done: int, total: int) -> None:
        """Shows the state of an operation that does one step at a time.

        Args:
            step: The current step, such as a tensor's name.
            done: Bytes processed so far.
            total: Bytes to process.
        """
        with self._lock:
            self._bar.total = total
            # Some steps process no byte for minutes: a terminal names them at once.
            is_new = step != self._step
            self._step = step
            self._bar.set_postfix_str(step, refresh=is_new and self._is_terminal)
            self._bar.update(done - self._bar.n)

    @contextlib.contextmanager
    def file(self, name: str, total: int | None) -> Iterator[FileProgress]:
        """Shows one of several files while the context is active.

        Args:
            name: The file's name.
            total: Its bytes, a part of the display's total; None if unknown.
        """
        with self._lock:
            bar = self._new_bar(
                f"  {name}",
                enabled=self._is_terminal,
                total=total,
                leave=False,
                **_BYTES,
            )
            file = FileProgress(name, total, (self._bar, bar), self._lock)
            self._files[file] = bar
        try:
            yield file
        finally:
            with self._lock:
                self._files.pop(file).close()

    def _tick(self) -> None:
        if self._files and not self._is_terminal:
            files = ", ".join(file.summary() for file in self._files)
            self._bar.set_postfix_str(files, refresh=False)
        self._bar.update(0)
        for bar in self._files.values():
            bar.update(0)

    def _end(self, *, finished: bool) -> None:
        if not self._is_terminal:
            self._bar.bar_format = _DONE if finished else _STOPPED
            self._bar.delay = 0  # A log gets the last line of a short operation, too.
        self._bar.close()


class FileProgress:
    """The share of one file in a :class:`ByteProgress`.

    Args:
        name: The file's name.
        total: Its bytes; None if unknown.
        bars: The bars that count its bytes: the display's, and its own.
        lock: The display's lock.
    """

    def __init__(
        self, name: str, total: int | None, bars: Sequence[Any], lock: RLock
    ) -> None:
        self._name = name
        self._total = total
        self.done = 0
        self._bars = bars
        self._lock = lock

    def advance(self, count: int) -> None:
        """Adds bytes that have arrived; a negative count discards some."""
        with self._lock:
            self.done += count
            for bar in self._bars:
                bar.update(count)

    def resume(self, count: int) -> None:
        """Adds bytes of an earlier run, which don't count for the rate."""
        with self._lock:
            self.done += count
            for bar in self._bars:
                if not bar.disable:
                    bar.n += count
                    bar.initial += count
                    bar.last_print_n += count

    def summary(self) -> str:
        """Returns the file's name and the share of it that has arrived."""
        if not self._total:
            return self._name
        return f"{self._name} {100 * self.done // self._total}%"
