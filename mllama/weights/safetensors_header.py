"""The header of a safetensors file, read without trusting it.

Format: eight bytes of little-endian length, that many bytes of JSON with each
tensor's ``dtype``, ``shape`` and ``data_offsets``, then the data, without gaps
(https://huggingface.co/docs/safetensors).  Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mllama.config.validation import Integer
from mllama.errors import CheckpointError

MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors library; real headers have under one megabyte."""

ITEM_BYTES: Final = {
    "F32": 4,
    "BF16": 2,
    "F16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "I32": 4,
    "I64": 8,
}
"""Element sizes of the types that are read, by the format's names."""

_LFS_POINTER = b"version https://git-lfs"

_Count = Annotated[Integer, Field(ge=0, lt=2**63)]


@checked_dataclass(frozen=True)
class _JsonEntry:
    """A tensor as the JSON describes it; ``data_offsets`` are where its data begins and
    ends."""

    dtype: StrictStr
    # No real tensor has more dimensions, and multiplying thousands takes forever.
    shape: Annotated[tuple[_Count, ...], Field(max_length=8)]
    data_offsets: tuple[_Count, _Count]


@dataclass(frozen=True)
class HeaderEntry:
    """A tensor in a file.

    Attributes:
        dtype: Its element type, by the format's name.
        shape: Its dimensions.
        offset: Position of its first byte in the file.
        nbytes: Its size in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, HeaderEntry]:
    """Returns the tensors of a file by their names in it.

    Raises:
        CheckpointError: If the file can't be read, is damaged or truncated.
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
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(values, dict):
        raise _damaged(path, "its header is not a JSON object")
    return _entries(path, values, 8 + length, size)


def _entries(
    path: Path, values: Mapping[str, Any], start: int, size: int
) -> dict[str, HeaderEntry]:
    """Checks that the tensors fill the data, which begins at ``start``, without gaps or
    overlaps."""
    adapter = TypeAdapter(_JsonEntry)
    entries: dict[str, HeaderEntry] = {}
    ranges: list[tuple[int, int]] = []
    for name, value in values.items():
        if name == "__metadata__":
            continue
        try:
            entry = adapter.validate_python(value)
        except ValidationError:
            raise _damaged(
                path, f"{name!r} has no valid type, shape or offsets"
            ) from None
        begin, end = entry.data_offsets
        nbytes = end - begin
        item_bytes = ITEM_BYTES.get(entry.dtype)
        if nbytes < 0 or (
            item_bytes is not None and nbytes != math.prod(entry.shape) * item_bytes
        ):
            raise _damaged(
                path, f"the size of {name!r} contradicts its shape {list(entry.shape)}"
            )
        entries[name] = HeaderEntry(entry.dtype, entry.shape, start + begin, nbytes)
        ranges.append((begin, end))
    reached = 0
    for begin, end in sorted(ranges):
        if begin != reached:
            raise _damaged(path, "its tensors overlap or leave gaps")
        reached = end
    if reached != size - start:
        raise _damaged(
            path, f"it has {size - start} bytes of data instead of {reached}"
        )
    return entries


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {reason}; download it again")
