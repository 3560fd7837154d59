"""What child processes inherit once MAX is loaded."""

from __future__ import annotations

import os


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
