"""How many files, sockets included, this process may have open."""

from __future__ import annotations

import contextlib
import sys

from mllama.errors import MllamaError

LEAST_FOR_A_SERVER = 128
"""A server without connections has 56 open on two cores, and three more for each
further process that decodes images."""

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


def check_open_files() -> None:
    """Checks that this process may open the files that a server needs.

    Raises:
        MllamaError: If the limit is too low and can't be raised.
    """
    if sys.platform == "win32":
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < LEAST_FOR_A_SERVER:
        raise MllamaError(
            f"the limit of open files is {hard}, and a server needs at least "
            f"{LEAST_FOR_A_SERVER}: raise it (ulimit -n, LimitNOFILE)"
        )


def open_file_limit() -> int | None:
    """Returns the limit, or None if there is none."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
