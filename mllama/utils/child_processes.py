"""Child processes: the environment they inherit, and their end with the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""The ``prctl`` option for the signal that Linux sends when the parent dies."""


def restore_child_environment() -> None:
    """Restores the Python settings that child processes inherit.

    Importing MAX sets ``PYTHONEXECUTABLE`` and ``PYTHONPATH`` in C, which
    ``os.environ`` doesn't show.  A child Python would then leave the virtual
    environment of the caller's program and find none of its packages.
    """
    for name in ("PYTHONEXECUTABLE", "PYTHONPATH"):
        if name in os.environ:
            os.putenv(name, os.environ[name])
        else:
            os.unsetenv(name)


def end_with_parent(death_signal: signal.Signals) -> None:
    """Ends this process when its parent dies, however that happens.

    Only Linux supports this; elsewhere the call does nothing.

    Args:
        death_signal: The signal that the system then sends to this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal)
