"""Progress on stderr, and the stages of startup.

The first run on a machine compiles for minutes, and a silent program looks hung.  On
a terminal a display keeps a live line.  Elsewhere, as in a log, it prints plain lines:
at most one every ten seconds, and a last one with the total time.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from typing_extensions import Self

LOADING: Final = "loading the weights"

SHOWN_AFTER_SECONDS = 3.0
"""On a terminal, a stage that ends sooner is not shown; in a log, the interval."""

TERMINAL_INTERVAL_SECONDS = 0.5
LOG_INTERVAL_SECONDS = 10.0

FIRST_RUN_SECONDS = 10.0
"""A graph that takes longer is being compiled rather than loaded from MAX's cache."""

FIRST_RUN = (
    "mllama: first run of this model on this machine: compiling takes minutes; "
    "later runs start in seconds"
)

_TICK_SECONDS = 0.1

_RUNNING = "{desc}: {elapsed_s:.0f} s"
_DONE = "{desc}: done in {elapsed_s:.0f} s"
_STOPPED = "{desc}: stopped after {elapsed_s:.0f} s"

_current: StartupProgress | None = None


class ProgressBar(tqdm):
    """tqdm without its monitoring thread and its lock shared between processes."""

    monitor_interval = 0


ProgressBar.set_lock(threading.RLock())


class ProgressDisplay:
    """A display that a thread redraws while it is entered as a context manager.

    Args:
        stream: The stream to write to; stderr by default.
        quiet: Whether to show nothing.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = _ProgressStream(stream or sys.stderr)
        self._is_terminal = self._stream.is_terminal
        self._interval = (
            TERMINAL_INTERVAL_SECONDS if self._is_terminal else LOG_INTERVAL_SECONDS
        )
        self._quiet = quiet
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._ticker = threading.Thread(
            target=self._run, name="mllama-progress", daemon=True
        )

    def __enter__(self) -> Self:
        if not self._quiet:
            self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if not self._quiet:
            self._ticker.join()
        with self._lock:
            self._end(finished=error is None)

    def _run(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            with self._lock:
                self._tick()

    def _tick(self) -> None:
        """Redraws the bars that are due."""
        raise NotImplementedError

    def _end(self, *, finished: bool) -> None:
        """Writes the last line."""
        raise NotImplementedError

    def _new_bar(self, title: str, *, enabled: bool = True, **options: Any) -> Any:
        """Returns a bar that redraws itself when it is updated after an interval."""
        return ProgressBar(
            desc=_printable(title),
            file=self._stream,
            disable=self._quiet or not enabled,
            dynamic_ncols=self._is_terminal,
            mininterval=self._interval,
            miniters=0,
            # Below another bar tqdm moves the cursor, which only a terminal has.
            position=None if self._is_terminal else 0,
            **options,
        )


class StartupProgress(ProgressDisplay):
    """A display of the stages of startup and of how long each takes.

    Stages that pass in a moment are not shown.

    Args:
        stream: The stream to write to; stderr by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._bar: Any = None
        self._name = ""
        self._since = 0.0
        self._announced_first_run = False

    def __enter__(self) -> Self:
        global _current
        _current = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        global _current
        _current = None
        super().__exit__(*error)

    def stage(self, name: str | None) -> None:
        """Ends the current stage and begins another, or none.

        Args:
            name: The new stage, as in "compiling the text graph".
        """
        with self._lock:
            self._end(finished=True)
            if name is None:
                return
            self._name = name
            self._since = time.monotonic()
            self._bar = self._new_bar(
                f"mllama: {name}",
                bar_format=_RUNNING,
                delay=SHOWN_AFTER_SECONDS if self._is_terminal else self._interval,
            )

    def _tick(self) -> None:
        if self._bar is None:
            return
        if (
            not self._announced_first_run
            and self._name.startswith("compiling")
            and time.monotonic() - self._since >= FIRST_RUN_SECONDS
        ):
            self._announced_first_run = True
            self._bar.clear()
            self._stream.write(f"{FIRST_RUN}\n")
        self._bar.update(0)

    def _end(self, *, finished: bool) -> None:
        if self._bar is not None:
            self._bar.bar_format = _DONE if finished else _STOPPED
            self._bar.close()
        self._bar = None


def stage(name: str | None) -> None:
    """Begins a stage of the active :class:`StartupProgress`, if there is one."""
    if _current is not None:
        _current.stage(name)


class _ProgressStream:
    """A stream for tqdm to write to.

    A closed stderr must not stop the operation, so errors of the stream are ignored.
    If the stream is no terminal, each update becomes a separate line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = False
        with contextlib.suppress(OSError, ValueError):
            self.is_terminal = stream.isatty()

    def write(self, text: str) -> None:
        if not self.is_terminal:
            text = text.strip()
            if not text:
                return
            text = f"{_printable(text)}\n"
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _printable(text: str) -> str:
    """Returns a text without control characters, which a file's name may contain."""
    return "".join(c if c.isprintable() else "?" for c in text)
