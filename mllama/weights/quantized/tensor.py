"""A tensor whose values are computed from quantized ones as it is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mllama.weights.tensor_info import TensorInfo

Floats = npt.NDArray[np.float32]

_ELEMENTS_AT_ONCE = 1 << 22
"""Values that are computed together: each intermediate array takes 16 MiB."""


class Layout(Protocol):
    """How the values of one matrix are stored."""

    def check(self) -> None:
        """Checks what only the file's data says, without reading the weights.

        Raises:
            CheckpointError: If the data is damaged or of another kind.
        """

    def rows(self, start: int, stop: int) -> Floats:
        """Returns the values of some rows, as a new array ``[rows, columns]``.

        Raises:
            CheckpointError: As :meth:`check`.
        """


@dataclass(frozen=True)
class DequantizedTensor(TensorInfo):
    """A quantized tensor, which is dequantized as it is read.

    Its ``dtype`` is that of the model before it was quantized; its values are computed
    in float32.

    Attributes:
        layout: How its values are stored.
    """

    layout: Layout

    @property
    def part_dtype(self) -> np.dtype[Any]:
        """Returns float32, in which the values are computed."""
        return np.dtype(np.float32)

    def mapped(self) -> Floats:
        """Returns the values as a new array."""
        return self.floats()

    def parts(self, rows: int) -> Iterator[Floats]:
        """Yields the values, some rows at a time.

        Args:
            rows: Maximum number of rows of a part.
        """
        for start in range(0, self.shape[0], rows):
            yield self.layout.rows(start, min(start + rows, self.shape[0]))

    def floats(self) -> Floats:
        """Returns the values as a new array."""
        values = np.empty(self.shape, np.float32)
        step = max(1, _ELEMENTS_AT_ONCE // math.prod(self.shape[1:]))
        for index, part in enumerate(self.parts(step)):
            values[index * step : (index + 1) * step] = part
        return values
