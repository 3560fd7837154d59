"""The cache directory, for files that can be recreated."""

from __future__ import annotations

import os
from pathlib import Path

from mllama.errors import CheckpointError

CACHE_VARIABLE = "MLLAMA_CACHE"
"""The environment variable that names another cache directory."""

QUANTIZED_DIRECTORY = "quantised"
"""The directory of quantized checkpoints in the cache.

The spelling is that of the first version, since caches hold gigabytes under it.
"""

_BLOCK_BYTES = 512
"""The unit of ``st_blocks``."""


def cache_home() -> Path:
    """Returns the directory of all programs' caches: ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def cache_root() -> Path:
    """Returns the cache directory, which may not exist yet: ``~/.cache/mllama``."""
    return Path(os.environ.get(CACHE_VARIABLE) or cache_home() / "mllama")


def disk_usage(path: Path) -> int:
    """Returns the bytes that a file, or all files of a directory, take on disk.

    Links are not followed.
    """
    if not path.is_dir():
        return path.lstat().st_blocks * _BLOCK_BYTES
    return sum(
        os.lstat(os.path.join(folder, name)).st_blocks * _BLOCK_BYTES
        for folder, _, names in os.walk(path)
        for name in names
    )


def cache_directory(name: str) -> Path:
    """Returns a directory of the cache and creates it: ``~/.cache/mllama/NAME``."""
    directory = cache_root() / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def cache_unwritable(error: OSError) -> CheckpointError:
    """Returns the error to raise if the cache can't be written."""
    return CheckpointError(
        f"{error.filename or 'the cache'} can't be written: "
        f"{error.strerror or error}; {CACHE_VARIABLE} names another directory for the "
        "cache"
    )
