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


def end_with_parent(parent: int) -> None:
    """Kills this process when the thread that started it, or its process, ends.

    Only Linux supports this; elsewhere the call does nothing.

    Args:
        parent: Id of the process that started this one.  If it has ended already, of
            which the system tells nobody later, this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
