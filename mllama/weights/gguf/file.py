"""GGUF files, read without trusting them: all sizes are checked against the file's.

Format: ggml's ``docs/gguf.md``.  The header is parsed here, because the ``gguf``
package trusts the counts and lengths in the file.  Tensors are memory-mapped.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from mllama.errors import CheckpointError

OLD_LAYOUT: Final = (
    "the old form of two files; pull the model again with Ollama 0.7 to 0.29, or "
    "convert the original checkpoint with `mllama quantize`"
)
"""The layout of Ollama 0.4 to 0.6 and the way out, for error messages."""

MAGIC: Final = b"GGUF"
_VERSIONS = (2, 3)
_MAX_ENTRIES = 1 << 16
_MAX_DIMENSIONS = 4
_MAX_ITEMS = 1 << 24
_MAX_STRING = 1 << 27
"""Bounds of a key's value in Python's memory, far above any tokenizer's."""

_DEFAULT_ALIGNMENT = 32

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Codes of ``struct`` for the format's value types of a fixed size."""

STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")

FLOAT_DTYPES: dict[GGMLQuantizationType, np.dtype[Any]] = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(np.uint16),
}
"""NumPy's data types of tensors that aren't quantized; bfloat16 is its bits, uint16."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a GGUF file.

    Attributes:
        kind: Its float type or quantized format.
        shape: Its dimensions, the slowest first as in NumPy.
        offset: Position of its first byte in the file.
        nbytes: Its size in bytes.
    """

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def is_gguf(path: Path) -> bool:
    """Returns True if a file begins like a GGUF file, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def stored_bytes(kind: GGMLQuantizationType, shape: Sequence[int]) -> int:
    """Returns the bytes of a tensor, whose rows are whole blocks."""
    length, size = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // length * size


class GgufFile:
    """A GGUF file with a consistent header.

    Args:
        path: The file.

    Raises:
        CheckpointError: If it is not a GGUF file, is truncated, or contradicts
            itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if size < 4:
                    raise CheckpointError(f"{path} is not a GGUF file")
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(
                f"{path} can't be read: {error.strerror or error}"
            ) from error
        header = _Header(path, self._bytes)
        self.metadata: Mapping[str, Any] = header.metadata
        """Values by key; arrays are lists."""
        self.tensors: Mapping[str, GgufTensor] = header.tensors
        """In the file's order."""
        self._header_size = header.size

    @property
    def header(self) -> bytes:
        """Returns the bytes before the tensors' data."""
        return self._bytes[: self._header_size]

    def raw(self, name: str) -> npt.NDArray[Any]:
        """Returns a tensor as the file has it, memory-mapped.

        Returns:
            float32, float16 or the bits of bfloat16 (uint16) of the tensor's shape; for
            quantized tensors uint8 ``[..., bytes of a row]``.
        """
        tensor = self.tensors[name]
        dtype: np.dtype[Any] = FLOAT_DTYPES.get(tensor.kind, np.dtype(np.uint8))
        values = np.frombuffer(
            self._bytes, dtype, tensor.nbytes // dtype.itemsize, tensor.offset
        )
        if tensor.kind in FLOAT_DTYPES:
            return values.reshape(tensor.shape)
        return values.reshape(*tensor.shape[:-1], -1)


class _Header:
    """Parses what precedes the tensors' data."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self._at = 0
        if self._take(4) != MAGIC:
            raise CheckpointError(f"{path} is not a GGUF file")
        version = self._number("I")
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{path} is GGUF version {version}; "
                f"versions {' and '.join(map(str, _VERSIONS))} are read"
            )
        tensor_count, entry_count = self._number("Q"), self._number("Q")
        if max(tensor_count, entry_count) > _MAX_ENTRIES:
            raise self._damaged(f"claims {max(tensor_count, entry_count)} entries")
        self.metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            key = self._string()
            self.metadata[key] = self._value(self._number("I"))
        infos = [self._tensor_info() for _ in range(tensor_count)]
        self.size = self._at
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment % 8:
            raise self._damaged(f"has an alignment of {alignment}")
        start = -(-self._at // alignment) * alignment
        self.tensors: dict[str, GgufTensor] = {}
        for name, kind, shape, offset in infos:
            if name in self.tensors:
                raise self._damaged(f"has two tensors {name}")
            if offset % alignment:
                raise self._damaged(f"{name} isn't aligned")
            nbytes = self._bytes_of(name, kind, shape)
            if start + offset + nbytes > len(content):
                raise self._damaged(
                    f"ends before {name} does; it is truncated, so download it again"
                )
            self.tensors[name] = GgufTensor(kind, shape, start + offset, nbytes)

    def _damaged(self, what: str) -> CheckpointError:
        # The file may put anything into tensors' names.
        what = " ".join(what[:300].split())
        return CheckpointError(f"{self._path} {what}")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._content):
            raise self._damaged("is truncated; download it again")
        taken = self._content[self._at : end]
        self._at = end
        return taken

    def _number(self, code: str) -> Any:
        layout = f"<{code}"
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        """Returns several strings; a vocabulary has hundreds of thousands of them."""
        # Every string takes at least eight bytes.
        if count * 8 > len(self._content) - self._at:
            raise self._damaged("is truncated; download it again")
        content, at, strings = self._content, self._at, []
        try:
            for _ in range(count):
                (length,) = _LENGTH.unpack_from(content, at)
                at += _LENGTH.size
                if length > len(content) - at:
                    raise self._damaged("is truncated; download it again")
                if length > _MAX_STRING:
                    raise self._damaged(f"claims a string of {length} bytes")
                strings.append(content[at : at + length].decode())
                at += length
        except struct.error as error:
            raise self._damaged("is truncated; download it again") from error
        except UnicodeDecodeError as error:
            raise self._damaged("contains a string that is not UTF-8") from error
        self._at = at
        return strings

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind != _ARRAY:
            raise self._damaged(f"has a value of unknown type {kind}")
        kind, count = self._number("I"), self._number("Q")
        if count > _MAX_ITEMS:
            raise self._damaged(f"claims a list of {count} values")
        if kind == STRING:
            return self._strings(count)
        if kind not in SCALARS:
            raise self._damaged(f"has an array of unknown type {kind}")
        layout = f"<{count}{SCALARS[kind]}"
        item = struct.calcsize(f"<{SCALARS[kind]}")
        data = self._take(count * item)
        return list(struct.unpack(layout, data))

    def _tensor_info(
        self,
    ) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
        name = self._string()
        dimensions = self._number("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._damaged(f"gives {name} {dimensions} dimensions")
        shape = tuple(reversed([self._number("Q") for _ in range(dimensions)]))
        code = self._number("I")
        try:
            kind = GGMLQuantizationType(code)
        except ValueError as error:
            raise self._damaged(
                f"stores {name} in an unknown quantization, number {code}"
            ) from error
        return name, kind, shape, self._number("Q")

    def _bytes_of(
        self, name: str, kind: GGMLQuantizationType, shape: tuple[int, ...]
    ) -> int:
        length, _ = GGML_QUANT_SIZES[kind]
        if min(shape) < 1 or shape[-1] % length:
            raise self._damaged(
                f"gives {name} the shape {list(shape)}, but {kind.name} needs rows of "
                f"a multiple of {length}"
            )
        return stored_bytes(kind, shape)
