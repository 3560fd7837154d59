"""What a start is waiting for, told on stderr.

The first start on a machine compiles for minutes.  A silent program looks hung, so a
display names what is being compiled and how long it has taken: every second on a
terminal, every 15 seconds elsewhere.  Stages that pass in a moment are not shown.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

LOADING = "loading the weights"

SHOWN_AFTER_SECONDS = 3.0
TERMINAL_INTERVAL_SECONDS = 1.0
LOG_INTERVAL_SECONDS = 15.0

FIRST_START_SECONDS = 10.0
"""A graph that takes longer is being compiled rather than found in MAX's cache."""

FIRST_START = (
    "mllama: first start with this model on this machine: compiling takes minutes; "
    "later starts take seconds"
)

_current: StartProgress | None = None


class StartProgress:
    """Shows the stages of a start while it is entered as a context manager.

    Args:
        stream: Where to write; stderr by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticker = threading.Thread(
            target=self._tick, name="mllama-progress", daemon=True
        )
        self._stage: str | None = None
        self._since = 0.0
        self._shown = False
        self._next = 0.0
        self._told_first_start = False

    def __enter__(self) -> StartProgress:
        global _current
        _current = self
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _current
        _current = None
        self.stage(None, finished=error is None)
        self._stop.set()
        self._ticker.join()

    def stage(self, name: str | None, *, finished: bool = True) -> None:
        """Ends the current stage and begins another, or none.

        Args:
            name: What is being done now, as in "compiling the text graph".
            finished: Whether the current stage came to its end.
        """
        with self._lock:
            if self._shown:
                elapsed = time.monotonic() - self._since
                ending = "done in" if finished else "stopped after"
                self._write(f"mllama: {self._stage}: {ending} {elapsed:.0f} s", "\n")
            self._stage = name
            self._since = time.monotonic()
            self._next = self._since + (
                SHOWN_AFTER_SECONDS if self._terminal else LOG_INTERVAL_SECONDS / 3
            )
            self._shown = False

    def _tick(self) -> None:
        while not self._stop.wait(0.1):
            with self._lock:
                now = time.monotonic()
                if self._stage is None or now < self._next:
                    continue
                elapsed = now - self._since
                compiles = self._stage.startswith("compiling")
                if (
                    compiles
                    and elapsed >= FIRST_START_SECONDS
                    and not self._told_first_start
                ):
                    self._told_first_start = True
                    self._write(FIRST_START, "\n")
                self._write(
                    f"mllama: {self._stage}: {elapsed:.0f} s",
                    "" if self._terminal else "\n",
                )
                self._shown = True
                self._next = now + (
                    TERMINAL_INTERVAL_SECONDS
                    if self._terminal
                    else LOG_INTERVAL_SECONDS
                )

    def _write(self, text: str, end: str) -> None:
        # On a terminal a line is written over until its stage ends.
        start = "\r\x1b[K" if self._terminal else ""
        try:
            self._stream.write(start + text + end)
            self._stream.flush()
        except (OSError, ValueError):
            # A closed stderr must not stop the model from loading.
            self._stop.set()


def stage(name: str | None) -> None:
    """Begins a stage of the display that is on, if one is."""
    if _current is not None:
        _current.stage(name)
