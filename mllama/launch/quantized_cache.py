"""The cache of checkpoints that this package has quantized."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mllama.hub.content_key import content_key
from mllama.utils.byte_progress import ByteProgress
from mllama.utils.cache_dir import (
    QUANTIZED_DIRECTORY,
    cache_directory,
    cache_unwritable,
)
from mllama.weights.checkpoint import Checkpoint


def quantized_file(checkpoint: Checkpoint, encoding: str, quiet: bool) -> Path:
    """Returns the path of the GGUF file of a quantized checkpoint.

    Quantizes the checkpoint unless the cache already has the file.

    Args:
        checkpoint: A checkpoint of floating-point weights.
        encoding: ``q4_0``, ``q4_k`` or ``q6_k``.
        quiet: Whether to hide the progress.

    Raises:
        CheckpointError: If the encoding doesn't fit the checkpoint's matrices, or the
            file can't be written.
    """
    from mllama.weights.gguf.writing import write_gguf

    digest = hashlib.sha256(encoding.encode())
    for file in [checkpoint.path / "config.json", *checkpoint.files]:
        digest.update(f"{content_key(file)}\0".encode())
    try:
        directory = cache_directory(QUANTIZED_DIRECTORY)
    except OSError as error:
        raise cache_unwritable(error) from error
    target = directory / f"{digest.hexdigest()[:32]}-{encoding}.gguf"
    if not target.is_file():
        with ByteProgress(f"quantizing to {encoding}", quiet=quiet) as progress:
            write_gguf(checkpoint, target, encoding, progress.show)
    return target
