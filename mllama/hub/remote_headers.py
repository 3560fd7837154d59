"""The headers of weights that are still on the hub, checked before the rest comes."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mllama.errors import CheckpointError, HubError
from mllama.hub.file_selection import GGUF, SAFETENSORS
from mllama.hub.repository import Repository
from mllama.weights.checkpoint import INDEX_FILE, open_checkpoint
from mllama.weights.gguf.file import MAGIC, SCALARS, STRING
from mllama.weights.gguf.writing import ARCHITECTURE
from mllama.weights.safetensors_header import MAX_HEADER_BYTES

_FIRST_BYTES: Final = 1 << 18
"""Holds the headers of most safetensors files, and the architecture of GGUF files."""


def check_headers(
    repository: Repository, names: Sequence[str], config: Path | None
) -> None:
    """Checks what the headers of files say that are not in the cache yet.

    Args:
        repository: Where they are.
        names: The files.
        config: The model's configuration, if the files are all of its weights.

    Raises:
        HubError: If the headers can't be had, or are of another model.
        CheckpointError: As from :func:`open_checkpoint`.
    """
    missing = [name for name in names if not repository.has(name)]
    for name in missing:
        if name.endswith(GGUF):
            _check_architecture(repository, name)
    if config is not None and missing and names[0].endswith(SAFETENSORS):
        with (
            # Without room for the headers the files are checked when they are here.
            contextlib.suppress(OSError),
            tempfile.TemporaryDirectory(prefix="mllama-") as directory,
        ):
            _check_tensors(repository, names, config, Path(directory))


def _check_tensors(
    repository: Repository, names: Sequence[str], config: Path, directory: Path
) -> None:
    """Opens a checkpoint of which only the headers are there, the rest being holes."""
    (directory / config.name).symlink_to(config)
    index = repository.directory / INDEX_FILE
    if index.is_file():
        (directory / INDEX_FILE).symlink_to(index)
    for name in names:
        if repository.has(name):
            (directory / name).symlink_to(repository.directory / name)
            continue
        size = repository.size(name)
        if size is None:
            return
        with (directory / name).open("wb") as file:
            file.write(_header(repository, name))
            file.truncate(size)
    try:
        open_checkpoint(directory)
    except CheckpointError as error:
        said = str(error).replace(f"{directory}/", f"{repository.name}/")
        said = said.replace(str(directory), repository.name)
        raise CheckpointError(said) from error


def _header(repository: Repository, name: str) -> bytes:
    start = repository.read_start(name, _FIRST_BYTES)
    length = 8 + int.from_bytes(start[:8], "little")
    if len(start) < length <= MAX_HEADER_BYTES:
        start = repository.read_start(name, length)
    return start


def _check_architecture(repository: Repository, name: str) -> None:
    start = repository.read_start(name, _FIRST_BYTES)
    if not start.startswith(MAGIC):
        raise HubError(f"{name} of {repository.name} is no GGUF file")
    architecture = gguf_architecture(start)
    if architecture not in (None, ARCHITECTURE):
        raise HubError(
            f"{name} of {repository.name} holds a model of the architecture "
            f"{architecture!r}, not {ARCHITECTURE!r}"
        )


def gguf_architecture(start: bytes) -> str | None:
    """``general.architecture`` of a GGUF file, which writers put among the first keys.

    Args:
        start: The file's first bytes.

    Returns:
        The architecture; None if it can't be told from these bytes.
    """
    at = 24  # Magic, version and two counts.
    with contextlib.suppress(struct.error, UnicodeDecodeError):
        while True:
            key, at = _string(start, at)
            (kind,) = struct.unpack_from("<I", start, at)
            at += 4
            if kind == STRING:
                value, at = _string(start, at)
                if key == "general.architecture":
                    return value
            elif kind in SCALARS:
                at += struct.calcsize(f"<{SCALARS[kind]}")
            else:
                break
    return None


def _string(start: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", start, at)
    end = at + 8 + length
    if end > len(start):
        raise struct.error
    return start[at + 8 : end].decode(), end
