"""Numbers that a process shares with its children, in a file that both map."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

_BYTES: Final = 8
"""Bytes of a number."""


@contextmanager
def new_shared_file(count: int) -> Iterator[Path]:
    """Creates a file of numbers, all 0, and removes it on exit.

    Where the system has ``/proc``, the file has no name, and its path leads through
    this process.  Services that remove old files from the temporary directory would
    remove one that is only mapped, and later children couldn't open it.

    Args:
        count: How many numbers.

    Yields:
        The file's path, for this process and for its children while it runs.
    """
    descriptors = Path(f"/proc/{os.getpid()}/fd")
    if descriptors.exists():
        with tempfile.TemporaryFile() as file:
            file.truncate(count * _BYTES)
            yield descriptors / str(file.fileno())
    else:
        with tempfile.NamedTemporaryFile(prefix="mllama-") as named:
            named.truncate(count * _BYTES)
            yield Path(named.name)


def shared_numbers(path: Path, count: int) -> npt.NDArray[np.int64]:
    """Maps a file of numbers: int64 ``[count]``, which may be written, too.

    Raises:
        OSError: If it can't be opened.
    """
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), count * _BYTES)
    return np.frombuffer(shared, dtype=np.int64)
