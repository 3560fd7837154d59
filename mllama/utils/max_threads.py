"""Settings that keep MAX's idle threads from taking cores.

A profiler shows in MAX 26.7: between two steps of a model its workers, which spin after
every small call, take the cores that Python needs; and a thread that empties a buffer
every 0.1 ms takes a tenth of a core, even in an idle server.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SPINNING = ("MODULAR_THREAD_BUSY_WAIT_US", "MODULAR_RUNTIME_THREAD_BUSY_WAIT_TIME_US")
"""The time that a worker spins before it sleeps, for two parts of MAX.

MAX ends the process if the two differ.
"""
_SPIN_MICROSECONDS = "50"
"""The time that the small operations of a step take; MAX's default is 200."""

_TIMER_SLACK_NANOSECONDS = 10_000_000
_PR_SET_TIMERSLACK = 29
_PR_GET_TIMERSLACK = 30


def limit_spinning() -> None:
    """Limits the time that MAX's workers spin before they sleep.

    If the user has set one of MAX's two variables, both get its value.  The call has no
    effect once MAX is loaded, since its threads exist by then.
    """
    if "max._core" in sys.modules:
        return
    given = [os.environ[name] for name in _SPINNING if name in os.environ]
    for name in _SPINNING:
        os.environ.setdefault(name, given[0] if given else _SPIN_MICROSECONDS)


def with_timer_slack(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that threads started by its first call get a timer slack.

    When MAX first executes a graph, it starts a thread that empties a buffer every
    0.1 ms.  With the slack, the thread wakes about every 10 ms.

    Args:
        function: A function that executes a graph.
    """
    is_first = True

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal is_first
        if not is_first:
            return function(*arguments, **options)
        is_first = False
        with _timer_slack():
            return function(*arguments, **options)

    return wrapped


@contextmanager
def _timer_slack() -> Iterator[None]:
    """Sets the timer slack of threads started in the context, to delay their timers.

    Only Linux has timer slack, which a new thread inherits; elsewhere nothing changes.
    """
    if sys.platform != "linux":
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    before = prctl(_PR_GET_TIMERSLACK)
    prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_TIMER_SLACK_NANOSECONDS))
    try:
        yield
    finally:
        prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(before))
