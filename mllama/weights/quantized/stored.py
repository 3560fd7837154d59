"""A tensor of any element type in a safetensors file, mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mllama.errors import CheckpointError
from mllama.utils.bfloat16 import as_floats
from mllama.weights.safetensors_header import HeaderEntry
from mllama.weights.tensor_info import DTYPE_NAMES

_NUMPY_TYPES: Final = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # Its bits.
    "F8_E4M3": "u1",  # Its bits.
    "F8_E5M2": "u1",
    "I8": "i1",
    "U8": "u1",
    "I32": "<i4",
    "I64": "<i8",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, of which nothing is known but its header.

    Attributes:
        file: The file.
        source_name: Its name in the file.
        entry: Its header.
    """

    file: Path
    source_name: str
    entry: HeaderEntry

    @property
    def dtype(self) -> str:
        """Returns the element type, by the format's name."""
        return self.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the dimensions."""
        return self.entry.shape

    @property
    def is_float(self) -> bool:
        """Returns True if its elements are floats of 16 or 32 bits."""
        return self.dtype in DTYPE_NAMES

    def error(self, problem: str) -> CheckpointError:
        """Returns the error that reports a problem of the tensor."""
        return CheckpointError(f"{self.source_name} of {self.file} {problem}")

    def mapped(self) -> npt.NDArray[Any]:
        """Returns the elements, memory-mapped; floats of 8 bits and bfloat16 as bits.

        Raises:
            CheckpointError: If the element type is unknown.
        """
        if self.dtype not in _NUMPY_TYPES:
            raise self.error(f"has elements of type {self.dtype}, which are unknown")
        return self._mapped(np.dtype(_NUMPY_TYPES[self.dtype]), self.shape)

    def bytes(self) -> npt.NDArray[np.uint8]:
        """Returns the bytes, memory-mapped."""
        return self._mapped(np.dtype(np.uint8), (self.entry.nbytes,))

    def floats(self) -> npt.NDArray[np.float32]:
        """Returns the values as float32.

        Raises:
            CheckpointError: If the elements aren't floats of 16 or 32 bits.
        """
        if not self.is_float:
            raise self.error(
                f"has elements of type {self.dtype}, but only {', '.join(DTYPE_NAMES)} "
                "are supported there"
            )
        return as_floats(self.mapped())

    def _mapped(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        if not self.entry.nbytes:
            return np.empty(shape, dtype)
        return np.memmap(self.file, dtype, "r", self.entry.offset, shape)
