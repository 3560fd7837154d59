"""What a LoRA adapter does to one tensor, computed in float32 a few rows at a time.

LoRA (arXiv:2106.09685) adds a product of two small matrices, DoRA (arXiv:2402.09353)
then gives each row a length of its own.  The results are those of PEFT's
``merge_and_unload``, which the tests compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mllama.errors import CheckpointError
from mllama.utils.bfloat16 import as_floats
from mllama.weights.checkpoint import TensorInfo

Floats = npt.NDArray[np.float32]

_ELEMENTS_AT_ONCE = 1 << 24
"""Weights that are worked on together: intermediate values take 64 MiB each."""


@dataclass(frozen=True)
class Change:
    """What an adapter does to a tensor; its own tensors stay in their file.

    Attributes:
        replacement: What takes the tensor's place, before anything is added.
        down: The first factor, ``A``: ``[rank, in]``; of an embedding ``[rank, rows]``.
        up: The second, ``B``: ``[out, rank]``; of an embedding ``[width, rank]``.
        magnitude: DoRA's lengths: of rows, ``[out]``; of an embedding's columns.
        bias: What is added to a bias, ``[out]``.
        scale: Factor of the product, or of the bias.
        is_embedding: Whether the product is that of the transposed tensor.
    """

    replacement: TensorInfo | None = None
    down: TensorInfo | None = None
    up: TensorInfo | None = None
    magnitude: TensorInfo | None = None
    bias: TensorInfo | None = None
    scale: float = 1.0
    is_embedding: bool = False

    @property
    def tensors(self) -> list[TensorInfo]:
        """The adapter's tensors that take part."""
        parts = (self.replacement, self.down, self.up, self.magnitude, self.bias)
        return [part for part in parts if part is not None]

    def apply(self, name: str, weights: npt.NDArray[Any]) -> Floats:
        """The changed tensor, in memory of its own.

        Args:
            name: The tensor's name, for messages.
            weights: The tensor as it is; uint16 holds the bits of bfloat16.

        Raises:
            CheckpointError: If the sum is beyond what float32 holds.
        """
        if self.replacement is not None:
            weights = self.replacement.mapped()
        merged = np.empty(weights.shape, np.float32)
        with np.errstate(all="ignore"):  # What isn't finite is refused below.
            for rows in _row_blocks(weights.shape):
                merged[rows] = as_floats(weights[rows])
            if self.bias is not None:
                merged += np.float32(self.scale) * self.bias.floats()
            if self.down is not None and self.up is not None:
                self._add_product(merged, self.down, self.up)
        if not all(
            np.isfinite(merged[rows]).all() for rows in _row_blocks(merged.shape)
        ):
            raise CheckpointError(
                f"{name} isn't finite any more with the adapter, which is damaged"
            )
        return merged

    def _add_product(self, merged: Floats, down: TensorInfo, up: TensorInfo) -> None:
        """Adds the factors' product to a matrix, in place, and sets the lengths."""
        rank = down.shape[0]
        matrix = merged.reshape(len(merged), -1)  # Of a convolution's kernels as well.
        factors = up.floats().reshape(-1, rank), down.floats().reshape(rank, -1)
        if self.is_embedding:
            factors = factors[1].T, factors[0].T
        left, right = np.float32(self.scale) * factors[0], factors[1]
        lengths = None if self.magnitude is None else self.magnitude.floats().ravel()
        squares = np.zeros(matrix.shape[1], np.float64)
        for rows in _row_blocks(matrix.shape):
            matrix[rows] += left[rows] @ right
            if lengths is None:
                continue
            if self.is_embedding:
                squares += np.square(matrix[rows], dtype=np.float64).sum(axis=0)
            else:
                norms = np.linalg.norm(matrix[rows], axis=1)
                matrix[rows] *= (lengths[rows] / norms)[:, None]
        if lengths is not None and self.is_embedding:
            matrix *= (lengths / np.sqrt(squares)).astype(np.float32)


@dataclass(frozen=True)
class MergedTensor(TensorInfo):
    """A tensor of a checkpoint as an adapter changes it.

    Attributes:
        change: What the adapter does.
    """

    change: Change

    @property
    def part_dtype(self) -> np.dtype[Any]:
        """float32, which the sum is computed in."""
        return np.dtype(np.float32)

    def parts(self, rows: int) -> Iterator[Floats]:
        """The changed values, a part at a time.

        Args:
            rows: How many of the first dimension a part has at most.

        Raises:
            CheckpointError: If they are beyond what float32 holds.
        """
        values = self.floats()
        for start in range(0, len(values), rows):
            yield values[start : start + rows]

    def floats(self) -> Floats:
        """The changed values, in memory of their own.

        Raises:
            CheckpointError: If they are beyond what float32 holds.
        """
        return self.change.apply(self.source_name, self.mapped())


def is_finite(tensor: TensorInfo) -> bool:
    """Whether a tensor holds neither NaN nor an infinity."""
    values = tensor.mapped()
    return all(
        bool(np.isfinite(as_floats(values[rows])).all())
        for rows in _row_blocks(values.shape)
    )


def _row_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Parts of the first dimension, each of a bounded number of elements."""
    rows = shape[0]
    step = max(1, _ELEMENTS_AT_ONCE // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    return [slice(start, start + step) for start in range(0, rows, step)]
