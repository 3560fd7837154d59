"""The header of a safetensors file, read without trusting it.

Format: eight bytes of little-endian length, that many bytes of JSON with each
tensor's ``dtype``, ``shape`` and ``data_offsets``, then the data, without holes
(https://huggingface.co/docs/safetensors).  Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from mllama.errors import CheckpointError

MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors library; real headers have under one megabyte."""

ITEM_BYTES: Final = {"F32": 4, "BF16": 2, "F16": 2}
"""Element sizes of the types that are supported, by the format's names."""

_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class HeaderEntry:
    """What a header says about one tensor: ``offset`` and ``nbytes`` are its place in
    the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, HeaderEntry]:
    """The tensors of a file by their names in it.

    Raises:
        CheckpointError: If the file can't be read, is damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            if (start + file.read(len(_LFS_POINTER) - 8)) == _LFS_POINTER:
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, not the file itself; run "
                    "`git lfs pull`"
                )
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise _damaged(path, "its header is longer than the file or too long")
            file.seek(8)
            header = file.read(length)
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error.strerror or error}"
        ) from error
    try:
        values = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(values, dict):
        raise _damaged(path, "its header is no JSON object")
    return _entries(path, values, 8 + length, size)


def _entries(
    path: Path, values: Mapping[str, Any], start: int, size: int
) -> dict[str, HeaderEntry]:
    entries: dict[str, HeaderEntry] = {}
    ranges: list[tuple[int, int]] = []
    for name, value in values.items():
        if name == "__metadata__":
            continue
        if not isinstance(value, dict):
            raise _damaged(path, f"{name!r} is described by no object")
        dtype, shape = value.get("dtype"), value.get("shape")
        offsets = value.get("data_offsets")
        if (
            not isinstance(dtype, str)
            or not _are_sizes(shape)
            or not _are_sizes(offsets)
            or len(offsets) != 2
            or not offsets[0] <= offsets[1]
        ):
            raise _damaged(path, f"{name!r} has no valid type, shape or offsets")
        nbytes = offsets[1] - offsets[0]
        if dtype in ITEM_BYTES and nbytes != math.prod(shape) * ITEM_BYTES[dtype]:
            raise _damaged(path, f"{name!r} has another size than its shape {shape}")
        entries[name] = HeaderEntry(dtype, tuple(shape), start + offsets[0], nbytes)
        ranges.append((offsets[0], offsets[1]))
    end = 0
    for begin, next_end in sorted(ranges):
        if begin != end:
            raise _damaged(path, "its tensors overlap or leave holes")
        end = next_end
    if end != size - start:
        raise _damaged(
            path, f"it holds {size - start} bytes of data where {end} belong"
        )
    return entries


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    # No tensor has more dimensions, and a product of thousands takes forever.
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63
            for item in value
        )
    )


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {reason}; download it again")
