"""Child processes: what they inherit once MAX is loaded, and when they end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Of Linux's ``prctl``: the signal to get when the parent dies."""


def restore_child_environment() -> None:
    """Gives child processes this process's own Python settings back.

    Importing MAX sets ``PYTHONEXECUTABLE`` and ``PYTHONPATH`` in C, where
    ``os.environ`` doesn't show it.  A child Python would then leave the virtual
    environment that the caller's program runs in and find none of its packages.
    """
    for name in ("PYTHONEXECUTABLE", "PYTHONPATH"):
        if name in os.environ:
            os.putenv(name, os.environ[name])
        else:
            os.unsetenv(name)


def end_with_parent(how: signal.Signals) -> None:
    """Has the system end this process when its parent dies, whatever kills it.

    Only Linux can do so.

    Args:
        how: The signal to get then.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
