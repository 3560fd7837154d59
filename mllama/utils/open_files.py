"""How many files, sockets included, this process may have open."""

from __future__ import annotations

import contextlib
import sys

_ENOUGH = 65536
"""More are of no use, and some programs close each number up to the limit."""

if sys.platform != "win32":
    import resource


def raise_open_file_limit() -> None:
    """Raises the limit as far as this process may, as servers do."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
        if soft != resource.RLIM_INFINITY and soft < most:
            # macOS has a lower limit than it says.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def open_file_limit() -> int | None:
    """Returns the limit, or None if there is none."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
