"""When two files of checkpoints are the same without reading them."""

from __future__ import annotations

import re
from pathlib import Path

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Of a file that is in Git, or of a large one that isn't."""


def content_key(file: Path) -> str:
    """A text that another content doesn't have.

    In the hub's cache a file is a link to a blob that is named by its digest: it is the
    same in each commit that has it, and after it was downloaded again.  Elsewhere it is
    known by its place, its size and the time it was changed.
    """
    if file.is_symlink():
        blob = file.readlink()
        if blob.parent.name == "blobs" and _DIGEST.fullmatch(blob.name):
            return f"{file.name}\0{blob.name}"
    status = file.stat()
    return f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
