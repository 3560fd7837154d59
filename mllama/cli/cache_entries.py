"""The entries of the cache.

The cache's directory may also contain files of the user, so only names that this
package gives to its entries count.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mllama.compilation.store import COMPILED_DIRECTORY, CompiledStore
from mllama.errors import CompiledModelError
from mllama.max_compat.mojo_packages import PACKAGES_DIRECTORY, packaged_name
from mllama.utils.cache_dir import (
    QUANTIZED_DIRECTORY,
    cache_root,
    cache_unwritable,
    disk_usage,
)

KINDS = {
    "compiled": "compiled models",
    PACKAGES_DIRECTORY: "built packages of kernels",
    QUANTIZED_DIRECTORY: "checkpoints quantized to GGUF",
    "gguf": "configuration and tokenizers of GGUF files",
}
"""Descriptions of the kinds of entries, by their directory."""

_NAMES = {
    "compiled": re.compile(r"[0-9a-f]{16}"),
    PACKAGES_DIRECTORY: re.compile(r"[0-9a-f]{16}"),
    QUANTIZED_DIRECTORY: re.compile(r"[0-9a-f]{32}-q\d_[0k]\.gguf(\.part)?"),
    "gguf": re.compile(r"[0-9a-f]{32}|links"),
}


@dataclass(frozen=True)
class CacheEntry:
    """A file or directory in the cache.

    Attributes:
        kind: One of ``KINDS``.
        path: Its path.
        bytes: Bytes that it takes on disk; links take none.
        description: A summary of its content; empty if the name is enough.
    """

    kind: str
    path: Path
    bytes: int
    description: str

    @property
    def modified(self) -> float:
        """Returns the time of the last change, in seconds since 1970."""
        return self.path.stat().st_mtime

    def remove(self) -> None:
        """Removes the file or directory.

        Raises:
            CheckpointError: If the system doesn't allow it.
        """
        try:
            if self.path.is_dir():
                shutil.rmtree(self.path)
            else:
                self.path.unlink()
        except FileNotFoundError:
            pass  # Another process has removed it.
        except OSError as error:
            raise cache_unwritable(error) from error


def entries_of(kind: str) -> Iterator[CacheEntry]:
    """Yields the entries of a kind, sorted by name."""
    directory = cache_root() / kind
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if _NAMES[kind].fullmatch(path.name):
            yield CacheEntry(kind, path, disk_usage(path), _description(path))


def _description(path: Path) -> str:
    if path.parent.name == PACKAGES_DIRECTORY:
        return packaged_name(path)
    if path.parent.name != COMPILED_DIRECTORY:
        return ""
    try:
        manifest, _ = CompiledStore.open_verified(path)
    except CompiledModelError:
        return "unfinished or damaged; compiled again when it is needed"
    versions = f"MAX {manifest.max}, mllama {manifest.mllama}"
    return f"{manifest.encoding}, {', '.join(manifest.devices)}, {versions}"
