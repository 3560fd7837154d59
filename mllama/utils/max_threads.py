"""MAX's threads leave the cores to others while they have nothing to do.

Seen in MAX 26.7 with a profiler: between two steps of a model its workers, which spin
after every small call, took the cores that Python needed, and a thread that empties a
buffer every 0.1 ms took a tenth of a core, of an idle server as well.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SPINNING = ("MODULAR_THREAD_BUSY_WAIT_US", "MODULAR_RUNTIME_THREAD_BUSY_WAIT_TIME_US")
"""How long a worker spins before it sleeps, for two parts of MAX that must agree: it
ends the process if they don't."""
_SPIN_MICROSECONDS = "50"
"""As long as the small operations of a step take; MAX's own is 200."""

_TIMER_SLACK_NANOSECONDS = 10_000_000
_PR_SET_TIMERSLACK = 29
_PR_GET_TIMERSLACK = 30


def limit_spinning() -> None:
    """Has MAX's workers sleep soon, or when one of its two variables says.

    Does nothing once MAX is loaded, since its threads are made.
    """
    if "max._core" in sys.modules:
        return
    given = [os.environ[name] for name in _SPINNING if name in os.environ]
    for name in _SPINNING:
        os.environ.setdefault(name, given[0] if given else _SPIN_MICROSECONDS)


def with_patient_timers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function whose first call has the threads that it starts wake rarely.

    MAX starts a thread when it first executes a graph, which empties a buffer every
    0.1 ms.

    Args:
        function: Executes a graph.
    """
    is_first = True

    def patient(*arguments: Any, **options: Any) -> Any:
        nonlocal is_first
        if not is_first:
            return function(*arguments, **options)
        is_first = False
        with _patient_timers():
            return function(*arguments, **options)

    return patient


@contextmanager
def _patient_timers() -> Iterator[None]:
    """Threads that this one starts meanwhile wait some milliseconds longer than told.

    Only Linux can do so: a thread inherits the slack of its timers.
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
