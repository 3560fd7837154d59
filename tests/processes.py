"""What runs on this machine, for tests that start and end programs."""

from __future__ import annotations

import psutil


def is_running(pid: int) -> bool:
    """Returns False for a process that has ended, even if nobody has waited for it."""
    try:
        state = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return False
    return state not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def children(pid: int) -> list[psutil.Process]:
    """Returns a process's children; none if it has ended."""
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
