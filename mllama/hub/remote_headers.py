"""Checks of the headers of weight files on the hub, before the rest is downloaded.

The hub's client can parse a safetensors header, too, but reads the whole file into
memory if the server ignores ranges, and drops the length of the header, without which a
truncated file can't be distinguished from a whole one.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mllama.errors import CheckpointError, HubError
from mllama.hub.file_selection import GGUF, SAFETENSORS
from mllama.hub.model_kind import VISION_MODEL, ModelKind
from mllama.hub.repository import Repository
from mllama.weights.checkpoint import INDEX_FILE, open_checkpoint
from mllama.weights.gguf.file import MAGIC, SCALARS, STRING
from mllama.weights.safetensors_header import MAX_HEADER_BYTES

_FIRST_BYTES: Final = 1 << 18
"""Enough for most safetensors headers, and for the architecture in a GGUF file."""


def check_headers(
    repository: Repository,
    names: Sequence[str],
    config: Path | None,
    kind: ModelKind = VISION_MODEL,
) -> None:
    """Checks the headers of those files that are not in the cache yet.

    Args:
        repository: The files' repository.
        names: The weight files.
        config: The model's configuration, if the files are all of its weights.
        kind: The kind of the model.

    Raises:
        HubError: If the headers can't be read, or belong to another model.
        CheckpointError: As :func:`open_checkpoint`.
    """
    missing = [name for name in names if not repository.has(name)]
    for name in missing:
        if name.endswith(GGUF):
            _check_architecture(repository, name, kind.architecture)
    if config is not None and missing and names[0].endswith(SAFETENSORS):
        with (
            # If the headers don't fit on the disk, the files are checked later.
            contextlib.suppress(OSError),
            tempfile.TemporaryDirectory(prefix="mllama-") as directory,
        ):
            _check_tensors(repository, names, config, Path(directory), kind)


def _check_tensors(
    repository: Repository,
    names: Sequence[str],
    config: Path,
    directory: Path,
    kind: ModelKind,
) -> None:
    """Opens a checkpoint of sparse files: real headers, and holes for the data."""
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
        open_checkpoint(directory, read_config=kind.read_config)
    except CheckpointError as error:
        message = str(error).replace(f"{directory}/", f"{repository.name}/")
        message = message.replace(str(directory), repository.name)
        raise CheckpointError(message) from error


def _header(repository: Repository, name: str) -> bytes:
    start = repository.read_start(name, _FIRST_BYTES)
    length = 8 + int.from_bytes(start[:8], "little")
    if len(start) < length <= MAX_HEADER_BYTES:
        start = repository.read_start(name, length)
    return start


def _check_architecture(repository: Repository, name: str, expected: str) -> None:
    start = repository.read_start(name, _FIRST_BYTES)
    if not start.startswith(MAGIC):
        raise HubError(f"{name} of {repository.name} is not a GGUF file")
    architecture = gguf_architecture(start)
    if architecture not in (None, expected):
        raise HubError(
            f"{name} of {repository.name} is a model of the architecture "
            f"{architecture!r}, not {expected!r}"
        )


def gguf_architecture(start: bytes) -> str | None:
    """Returns the value of ``general.architecture``, one of a GGUF file's first keys.

    Args:
        start: The file's first bytes.

    Returns:
        The architecture; None if these bytes don't contain it.
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
