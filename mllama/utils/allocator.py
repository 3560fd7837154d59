"""Gives freed memory back to the system, which glibc alone does late or never."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""Numbers of mallopt's settings (malloc.h)."""

_ARENAS: Final = 2
"""Each thread would have one of its own, up to eight for a core."""

_LARGE: Final = 1 << 20
"""Blocks of so many bytes are given back as soon as they are freed.  By itself, glibc
raises that number to the largest block that was freed, up to 32 MiB."""

_GROWTH: Final = 4 << 20
"""Growth after which freed memory is looked for, in bytes."""

_REPEATS: Final = 24
"""How many times more it is looked for: most is freed after the growth."""


def limit_allocator() -> None:
    """Has this process keep less of what it frees, from now on."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


class MemoryTrimmer:
    """Returns freed memory to the system when the process has grown."""

    def __init__(self) -> None:
        self._least = resident_bytes()
        self._repeats = -1

    def is_due(self) -> bool:
        """Returns True if the process has grown since the last time, or of late."""
        if _glibc() is None:
            return False
        now = resident_bytes()
        self._least = min(self._least, now)
        if now > self._least + _GROWTH:
            self._repeats = _REPEATS
            return True
        self._repeats = max(-1, self._repeats - 1)
        return self._repeats >= 0

    def trim(self) -> None:
        """Returns what can be returned.  Takes milliseconds, for a thread."""
        libc = _glibc()
        if libc is not None:
            libc.malloc_trim(0)
        # What is left is in use.
        self._least = resident_bytes()


def resident_bytes() -> int:
    """Returns the memory of this process; 0 where the system doesn't say."""
    try:
        fields = Path("/proc/self/statm").read_bytes().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@cache
def _glibc() -> Any:
    """Returns the C library if it is glibc, else None."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
