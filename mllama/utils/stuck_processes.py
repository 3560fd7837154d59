"""Kills processes that don't go on, however busy the machine is.

A limit of wall-clock time would kill those that get no processor, too.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mllama.utils.process_activity import ProcessActivity, process_activity


@dataclass(frozen=True, kw_only=True)
class StuckLimits:
    """When a process is stuck; times are in seconds.

    Attributes:
        stopped: For which a signal may have stopped it.
        idle: For which it may neither compute nor want to.
        total: Which it may take, whatever it does.
        look: Between two looks at it.
    """

    stopped: float = 3.0
    idle: float = 60.0
    total: float = 1200.0
    look: float = 0.5


class _Watch:
    """Tells whether a process is stuck.

    Args:
        limits: When it is.
        now: The time.
    """

    def __init__(self, limits: StuckLimits, now: float) -> None:
        self._limits = limits
        self._start = self._running_at = self._busy_at = now
        self._cpu_seconds = -1.0

    def is_stuck(self, now: float, activity: ProcessActivity | None) -> bool:
        """Returns True if a process is stuck.

        Args:
            now: The time.
            activity: What it does; None if the system doesn't say.
        """
        limits = self._limits
        if now - self._start > limits.total:
            return True
        if activity is None or not activity.is_stopped:
            self._running_at = now
        if (
            activity is None
            or activity.wants_to_run
            or activity.cpu_seconds != self._cpu_seconds
        ):
            self._busy_at = now
            self._cpu_seconds = -1.0 if activity is None else activity.cpu_seconds
        return (
            now - self._running_at > limits.stopped or now - self._busy_at > limits.idle
        )


class NoThreadError(OSError):
    """The system has no thread for the watch."""


@contextmanager
def killed_if_stuck(
    pid_of: Callable[[], int | None],
    kill: Callable[[int], None],
    limits: StuckLimits | None = None,
) -> Iterator[threading.Event]:
    """Kills a process that gets stuck within the context.

    Whatever waits for the process then ends too: one that is stopped would never
    answer, nor read what is sent to it.

    Args:
        pid_of: Returns the id of the process, or None as long as there is none.
        kill: Kills the process of this id; is called in another thread.
        limits: When it is stuck.

    Yields:
        An event that is set if the process was killed.

    Raises:
        NoThreadError: If the system has no thread for that.
    """
    known = StuckLimits() if limits is None else limits
    has_ended, was_killed = threading.Event(), threading.Event()

    def watch() -> None:
        pid, state = None, _Watch(known, time.monotonic())
        while not has_ended.wait(known.look):
            now = time.monotonic()
            if (found := pid_of()) != pid:
                pid, state = found, _Watch(known, now)
            if pid is not None and state.is_stuck(now, process_activity(pid)):
                was_killed.set()
                kill(pid)
                return

    thread = threading.Thread(target=watch, name="mllama-stuck", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThreadError(errno.EAGAIN, str(error)) from error
    try:
        yield was_killed
    finally:
        has_ended.set()
        # So that it can't kill another process of the same id.
        thread.join()
