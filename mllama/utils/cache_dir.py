"""Where this package keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

from mllama.errors import CheckpointError

CACHE_VARIABLE = "MLLAMA_CACHE"
"""Environment variable that moves the cache."""

QUANTIZED_DIRECTORY = "quantised"
"""Where the cache keeps quantized checkpoints.  The spelling is that of the first
version: caches hold gigabytes under it."""

_BLOCK = 512
"""Bytes of what the system counts blocks in."""


def cache_home() -> Path:
    """Where programs keep their caches: ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache_root() -> Path:
    """The cache, which may not be there yet: ``~/.cache/mllama``."""
    return Path(os.environ.get(CACHE_VARIABLE) or cache_home() / "mllama")


def disk_usage(path: Path) -> int:
    """Bytes that a file, or all files of a directory, take on disk.

    What a link leads to counts elsewhere.
    """
    if not path.is_dir():
        return path.lstat().st_blocks * _BLOCK
    return sum(
        os.lstat(os.path.join(folder, name)).st_blocks * _BLOCK
        for folder, _, names in os.walk(path)
        for name in names
    )


def cache_directory(name: str) -> Path:
    """A directory of the cache, made if need be: ``~/.cache/mllama/NAME``."""
    directory = cache_root() / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def cache_unwritable(error: OSError) -> CheckpointError:
    """The error to raise where the cache can't be written."""
    return CheckpointError(
        f"{error.filename or 'the cache'} can't be written: "
        f"{error.strerror or error}; {CACHE_VARIABLE} names another directory for the "
        "cache"
    )
