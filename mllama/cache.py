"""Where this package keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

from mllama.errors import CheckpointError

CACHE_VARIABLE = "MLLAMA_CACHE"
"""Environment variable that moves the cache."""


def cache_root() -> Path:
    """The cache, which may not be there yet: ``~/.cache/mllama``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base) / "mllama")


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
