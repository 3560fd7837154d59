"""How a process ends: when the system has freed it, and by what signal."""

from __future__ import annotations

import asyncio
import signal
import time
from multiprocessing.process import BaseProcess
from typing import Final

_REAP_LOOK_SECONDS: Final = 0.01


async def reaped(process: BaseProcess, seconds: float) -> int | None:
    """Waits for the exit code of a process that is ending, and returns it.

    The event loop goes on meanwhile: to join the process would hold it until the system
    has freed everything.

    Args:
        process: The process.
        seconds: How long to wait.

    Returns:
        None if the system hasn't reported its end by then.
    """
    end = time.monotonic() + seconds
    while (code := process.exitcode) is None and time.monotonic() < end:
        await asyncio.sleep(_REAP_LOOK_SECONDS)
    return code


def signal_name(number: int) -> str:
    """Returns the name of a signal, as in "SIGKILL" or "signal 40"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        # Those for real-time programs have no names.
        return f"signal {number}"
