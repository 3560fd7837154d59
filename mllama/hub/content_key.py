"""Keys that identify the content of checkpoint files without reading them."""

from __future__ import annotations

import re
from pathlib import Path

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""The name of a blob: SHA-1 of a file in Git, or SHA-256 of a large file."""


def content_key(file: Path) -> str:
    """Returns a key that no other content has.

    In the hub's cache a file is a link to a blob, which is named by its digest: the key
    stays the same across commits and downloads.  Elsewhere the key is made of the
    file's path, size and modification time.
    """
    if file.is_symlink():
        blob = file.readlink()
        if blob.parent.name == "blobs" and _DIGEST.fullmatch(blob.name):
            return f"{file.name}\0{blob.name}"
    status = file.stat()
    return f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
