"""Ctrl-C while an engine works in this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Ctrl-C as a note, where KeyboardInterrupt could end engine code halfway."""

    def __init__(self) -> None:
        self._happened = False
        self._react: Callable[[], None] | None = None

    @property
    def happened(self) -> bool:
        """Returns True once Ctrl-C was pressed."""
        return self._happened

    def call(self, react: Callable[[], None]) -> None:
        """Has a function called at each Ctrl-C, and now if there was one.

        Args:
            react: It is called from a signal handler: it must take no lock.
        """
        self._react = react
        if self._happened:
            react()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._happened = True
        if self._react is not None:
            self._react()


@contextmanager
def noted_interrupts() -> Iterator[Interrupts]:
    """Yields what notes Ctrl-C, which raises nothing meanwhile.

    Python handles signals in the main thread.  In another one, Ctrl-C is not noted.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = signal.signal(signal.SIGINT, interrupts._handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
