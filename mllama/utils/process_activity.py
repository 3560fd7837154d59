"""Whether a process runs: from the system, since the process itself may be stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")

_STOPPED: Final = "T"
_WANTS_TO_RUN: Final = "RDt"
"""Has a processor or waits for one, waits for a disk, or is held by a debugger."""


@dataclass(frozen=True)
class ProcessActivity:
    """What a process does at one moment.

    Attributes:
        cpu_seconds: Processor time of all its threads so far.
        is_stopped: Whether a signal has stopped it.
        wants_to_run: Whether a thread computes, waits for a processor on a busy machine
            or for a disk, or is held by a debugger.
    """

    cpu_seconds: float
    is_stopped: bool
    wants_to_run: bool


def process_activity(pid: int) -> ProcessActivity | None:
    """Returns what a process does; None if the system, other than Linux, has no
    ``/proc``, or the process has ended."""
    ticks, states = 0, ""
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            # The name before it may contain anything.
            _, _, rest = (thread / "stat").read_text("utf-8", "replace").rpartition(")")
            fields = rest.split()
            states += fields[0]
            ticks += int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return None
    if not states:
        return None
    return ProcessActivity(
        cpu_seconds=ticks / _TICKS,
        is_stopped=set(states) == {_STOPPED},
        wants_to_run=any(state in _WANTS_TO_RUN for state in states),
    )
