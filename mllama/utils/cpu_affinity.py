"""The number of MAX's CPU threads, limited by the affinity of the process.

MAX creates its threads once in a process, one for each core that the main thread may
use at that time.  Its session takes their number as an argument, but a pipeline doesn't
pass that on, and setting it once a device is known ends the process.  So the process is
limited to as many cores while the threads are created.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mllama.errors import MllamaError
from mllama.utils.max_threads import limit_spinning

_limits: list[int | None] = []
"""The limit under which MAX created its threads; empty before that."""


@contextmanager
def limited_to_cores(number: int | None) -> Iterator[None]:
    """Limits the process to a number of cores while the context is active.

    The limit applies to this thread, the main thread and new child processes.

    Args:
        number: The number of cores; None sets no limit.

    Raises:
        MllamaError: If there are fewer cores, or the system doesn't support limits.
    """
    if number is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise MllamaError("--num-threads needs Linux: leave it out")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= number <= len(cores):
        raise MllamaError(
            f"--num-threads must be from 1 to the {len(cores)} cores that this process "
            f"may use, not {number}"
        )
    threads = {0: cores, os.getpid(): os.sched_getaffinity(os.getpid())}
    for thread in threads:
        os.sched_setaffinity(thread, cores[:number])
    try:
        yield
    finally:
        for thread, previous in threads.items():
            os.sched_setaffinity(thread, previous)


def start_max_threads(number: int | None) -> None:
    """Makes MAX create its threads in this process, unless it already has.

    Args:
        number: The number of threads; None creates one for each usable core.

    Raises:
        MllamaError: As :func:`limited_to_cores`, or if MAX has created another number
            of threads already.
    """
    if _limits:
        if number not in (None, *_limits):
            raise MllamaError(
                "MAX has created its threads in this process already, for an earlier "
                "model: set num_threads for that one"
            )
        return
    limit_spinning()
    with limited_to_cores(number):
        from max.driver import CPU

        CPU()
    _limits.append(number)
