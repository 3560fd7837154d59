"""What a process and those that it has started do, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from mllama.utils.process_activity import process_activity

_MAJOR_FAULTS = 9
"""Place of the page faults for which a disk was read, after the state."""


@dataclass(frozen=True)
class TreeActivity:
    """What a process and its descendants do.

    Attributes:
        pids: Their ids.
        cpu_seconds: Their processor time so far.
        transferred_bytes: What they have read and written so far.
        page_faults: How often mapped files had to be read so far.
        wants_to_run: Whether one of them computes, waits for a processor or a disk, or
            is held by a debugger.
    """

    pids: frozenset[int]
    cpu_seconds: float
    transferred_bytes: int
    page_faults: int
    wants_to_run: bool


def tree_activity(pid: int) -> TreeActivity | None:
    """Returns what a process and its descendants do; None if the system doesn't tell.

    Args:
        pid: The process.
    """
    try:
        children = psutil.Process(pid).children(recursive=True)
    except (psutil.Error, OSError):
        return None
    pids = frozenset((pid, *(child.pid for child in children)))
    known = [_activity(each) for each in pids]
    found = [each for each in known if each is not None]
    if len(found) < len(known):
        # One has just ended.
        return None
    return TreeActivity(
        pids,
        sum(each.cpu_seconds for each in found),
        sum(each.transferred_bytes for each in found),
        sum(each.page_faults for each in found),
        any(each.wants_to_run for each in found),
    )


def _activity(pid: int) -> TreeActivity | None:
    activity = process_activity(pid)
    if activity is None:
        return None
    try:
        folder = Path(f"/proc/{pid}")
        # The name before it may contain anything.
        _, _, rest = (folder / "stat").read_text("utf-8", "replace").rpartition(")")
        faults = int(rest.split()[_MAJOR_FAULTS])
        lines = (folder / "io").read_text().splitlines()
        counts = dict(line.split(": ") for line in lines)
        transferred = int(counts["rchar"]) + int(counts["wchar"])
    except (OSError, IndexError, KeyError, ValueError):
        return None
    return TreeActivity(
        frozenset((pid,)),
        activity.cpu_seconds,
        transferred,
        faults,
        activity.wants_to_run,
    )
