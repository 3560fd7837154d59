"""What lies in the cache, and how it is removed.

Only what this package has made is touched, by its names: the cache's directory may hold
other files of the user's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mllama.compilation.store import COMPILED_DIRECTORY, CompiledStore
from mllama.errors import CompiledModelError
from mllama.utils.cache_dir import (
    QUANTIZED_DIRECTORY,
    cache_root,
    cache_unwritable,
    disk_usage,
)

KINDS = {
    "compiled": "compiled models",
    QUANTIZED_DIRECTORY: "checkpoints quantized to GGUF",
    "gguf": "configuration and tokenizers of GGUF files",
}
"""Directories of the cache, and what is in them."""

_NAMES = {
    "compiled": re.compile(r"[0-9a-f]{16}"),
    QUANTIZED_DIRECTORY: re.compile(r"[0-9a-f]{32}-q\d_[0k]\.gguf(\.part)?"),
    "gguf": re.compile(r"[0-9a-f]{32}|links"),
}


@dataclass(frozen=True)
class CacheEntry:
    """A file or directory that this package has made.

    Attributes:
        kind: One of ``KINDS``.
        path: Where it lies.
        bytes: What it takes on disk; links take nothing.
        description: What it is for, or nothing.
    """

    kind: str
    path: Path
    bytes: int
    description: str

    @property
    def modified(self) -> float:
        """When it was last changed, in seconds since 1970."""
        return self.path.stat().st_mtime

    def remove(self) -> None:
        """Removes it.

        Raises:
            CheckpointError: If that isn't allowed.
        """
        try:
            if self.path.is_dir():
                shutil.rmtree(self.path)
            else:
                self.path.unlink()
        except FileNotFoundError:
            pass  # Another process was first.
        except OSError as error:
            raise cache_unwritable(error) from error


def cache_entries(kind: str) -> Iterator[CacheEntry]:
    """What the cache holds of a kind, by name."""
    directory = cache_root() / kind
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if _NAMES[kind].fullmatch(path.name):
            yield CacheEntry(kind, path, disk_usage(path), _description(path))


def _description(path: Path) -> str:
    if path.parent.name != COMPILED_DIRECTORY:
        return ""
    try:
        manifest, _ = CompiledStore.open_verified(path)
    except CompiledModelError:
        return "unfinished or damaged; compiled anew when it is needed"
    versions = f"MAX {manifest.max}, mllama {manifest.mllama}"
    return f"{manifest.encoding}, {', '.join(manifest.devices)}, {versions}"
