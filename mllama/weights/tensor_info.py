"""A tensor of floats in a safetensors file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mllama.utils.bfloat16 import as_floats

DTYPE_NAMES: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""The data types of config.json by their names in safetensors files."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file.

    Attributes:
        file: The file.
        source_name: The tensor's name in the file.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        shape: Its dimensions, as the model needs them.
        offset: Position of its first byte in the file.
        nbytes: Its size in bytes.
    """

    file: Path
    source_name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def part_dtype(self) -> np.dtype[Any]:
        """Returns NumPy's data type of the arrays that :meth:`parts` yields."""
        return self._stored_type

    @property
    def _stored_type(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.dtype == "bfloat16" else self.dtype)

    def mapped(self) -> npt.NDArray[Any]:
        """Returns the values, memory-mapped; bfloat16 as its bits, in uint16."""
        return np.memmap(self.file, self._stored_type, "r", self.offset, self.shape)

    def parts(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """Yields the values as in :meth:`mapped`, some rows at a time.

        Each part is mapped separately, so that its pages are freed once it is
        processed.  The mappings are writable private copies (copy-on-write), because
        MAX copies read-only arrays.  The file never changes.

        Args:
            rows: Maximum number of rows of a part.
        """
        row_bytes = self.nbytes // self.shape[0]
        for start in range(0, self.shape[0], rows):
            shape = (min(rows, self.shape[0] - start), *self.shape[1:])
            offset = self.offset + start * row_bytes
            yield np.memmap(self.file, self._stored_type, "c", offset, shape)

    def floats(self) -> npt.NDArray[np.float32]:
        """Returns the values as float32; float32 files are mapped, not copied."""
        return as_floats(self.mapped())
