"""How many threads the CPU computes with.

MAX makes its threads once in a process, one for each core that the main thread may use
then.  Their number is an argument of its session, which a pipeline doesn't pass on and
which ends the process once a device is known.  So the process is kept to as many cores
while the threads are made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mllama.errors import MllamaError
from mllama.utils.max_threads import limit_spinning

_made: list[int | None] = []
"""What MAX's threads were limited to, once they are made."""


@contextmanager
def limited_to_cores(number: int | None) -> Iterator[None]:
    """Keeps this thread, the main thread and processes that are started meanwhile to a
    number of cores.

    Args:
        number: How many; None leaves everything as it is.

    Raises:
        MllamaError: If there are not so many, or the system can't do it.
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
        for thread, own in threads.items():
            os.sched_setaffinity(thread, own)


def start_max_threads(number: int | None) -> None:
    """Has MAX make its threads in this process, if it has not yet.

    Raises:
        MllamaError: As :func:`limited_to_cores`, or if they are made and are another
            number.
    """
    if _made:
        if number not in (None, *_made):
            raise MllamaError(
                "MAX has made its threads in this process already, for an earlier "
                "model: give that one the num_threads"
            )
        return
    limit_spinning()
    with limited_to_cores(number):
        from max.driver import CPU

        CPU()
    _made.append(number)
