"""Symbolic links that give GGUF files the suffix ``.gguf``.

MAX recognizes formats by a file's suffix.  The blobs of Ollama's store have none, so
they are loaded through a link in the cache; nothing is copied.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mllama.errors import CheckpointError
from mllama.utils.cache_dir import cache_directory, cache_unwritable
from mllama.weights.gguf.file import is_gguf

SUFFIX = ".gguf"


def is_readable_file(path: Path) -> bool:
    """Returns True if a path is a file.

    Raises:
        CheckpointError: If this user may not look, as in the store of Ollama's service.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error.strerror or error}"
        ) from error


def with_gguf_suffix(path: Path) -> Path:
    """Returns a path to the same file that ends in ``.gguf`` if it is a GGUF file.

    Args:
        path: Any file of weights.

    Raises:
        CheckpointError: If the cache can't be written.
    """
    if path.suffix == SUFFIX or not is_gguf(path):
        return path
    target = path.resolve()
    name = hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
    try:
        link = cache_directory("gguf/links") / f"{name}{SUFFIX}"
        if not (link.is_symlink() and link.readlink() == target):
            part = link.with_name(f"{name}.{os.getpid()}.part")
            part.unlink(missing_ok=True)
            part.symlink_to(target)
            part.replace(link)
    except OSError as error:
        raise cache_unwritable(error) from error
    return link
