"""Checkpoints of floats that were quantized once and are kept in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllama.hub.content_key import content_key
from mllama.utils.cache_dir import QUANTIZED_DIRECTORY, cache_directory
from mllama.weights.checkpoint import Checkpoint


def quantized_file(checkpoint: Checkpoint, encoding: str, quiet: bool) -> Path:
    """The checkpoint as a GGUF file, made if it is not in the cache yet.

    Args:
        checkpoint: Floats.
        encoding: ``q4_0``, ``q4_k`` or ``q6_k``.
        quiet: Whether to show no progress.

    Raises:
        CheckpointError: If it doesn't suit the encoding or can't be written.
    """
    from mllama.weights.gguf.writing import write_gguf

    digest = hashlib.sha256(encoding.encode())
    for file in [checkpoint.path / "config.json", *checkpoint.files]:
        digest.update(f"{content_key(file)}\0".encode())
    directory = cache_directory(QUANTIZED_DIRECTORY)
    target = directory / f"{digest.hexdigest()[:32]}-{encoding}.gguf"
    if not target.is_file():
        with QuantizationProgress(f"mllama: quantizing to {encoding}", quiet) as bar:
            write_gguf(checkpoint, target, encoding, bar.show)
    return target


class QuantizationProgress:
    """A progress bar on stderr, as :func:`write_gguf` tells its progress.

    Args:
        title: What is being done.
        quiet: Whether to show nothing.
    """

    def __init__(self, title: str, quiet: bool) -> None:
        self._bar: tqdm[Any] = tqdm(
            desc=title, unit="B", unit_scale=True, disable=quiet, dynamic_ncols=True
        )
        self._name = ""

    def __enter__(self) -> QuantizationProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, name: str, written: int, total: int) -> None:
        """Shows how much is written, and what is being worked on."""
        self._bar.total = total
        # What takes long is named at once, at a time at which nothing is written.
        self._bar.set_postfix_str(name, refresh=name != self._name)
        self._name = name
        self._bar.update(written - self._bar.n)
