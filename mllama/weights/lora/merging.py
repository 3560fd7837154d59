"""Merges a LoRA adapter into a tensor, in float32 and some rows at a time.

LoRA (arXiv:2106.09685) adds the product of two small matrices; DoRA (arXiv:2402.09353)
then rescales each row to a learned norm.  The results are those of PEFT's
``merge_and_unload``, which the tests compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mllama.errors import CheckpointError
from mllama.utils.bfloat16 import as_floats
from mllama.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    from typing_extensions import Self

Floats = npt.NDArray[np.float32]

_ELEMENTS_AT_ONCE = 1 << 24
"""Weights that are merged together: each intermediate array takes 64 MiB."""


@dataclass(frozen=True)
class Change:
    """An adapter's change to one tensor; the adapter's tensors stay in their file.

    Attributes:
        replacement: A tensor that replaces the model's before anything is added.
        down: The first factor, ``A``: ``[rank, in]``; for embeddings ``[rank, rows]``.
        up: The second, ``B``: ``[out, rank]``; for embeddings ``[width, rank]``.
        magnitude: DoRA's norms of the rows, ``[out]``; for embeddings of the columns.
        bias: An addend for a bias, ``[out]``.
        scale: Multiplies the product, or the addend.
        is_embedding: True if the product is added to the transposed tensor.
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
        """Returns the adapter's tensors that this change needs."""
        parts = (self.replacement, self.down, self.up, self.magnitude, self.bias)
        return [part for part in parts if part is not None]

    def apply(self, name: str, weights: npt.NDArray[Any]) -> Floats:
        """Returns the changed tensor as a new array.

        Args:
            name: The tensor's name, for messages.
            weights: The original tensor; bfloat16 as its bits, in uint16.

        Raises:
            CheckpointError: If a sum overflows float32.
        """
        if self.replacement is not None:
            weights = self.replacement.mapped()
        merged = np.empty(weights.shape, np.float32)
        with np.errstate(all="ignore"):  # Checked below.
            for rows in _row_slices(weights.shape):
                merged[rows] = as_floats(weights[rows])
            if self.bias is not None:
                merged += np.float32(self.scale) * self.bias.floats()
            if self.down is not None and self.up is not None:
                self._add_product(merged, self.down, self.up)
        if not all(
            np.isfinite(merged[rows]).all() for rows in _row_slices(merged.shape)
        ):
            raise CheckpointError(
                f"{name} isn't finite after merging the adapter, which is damaged"
            )
        return merged

    def _add_product(self, merged: Floats, down: TensorInfo, up: TensorInfo) -> None:
        """Adds the factors' product to a matrix in place, then applies DoRA's norms."""
        rank = down.shape[0]
        matrix = merged.reshape(len(merged), -1)  # Also for convolutions.
        factors = up.floats().reshape(-1, rank), down.floats().reshape(rank, -1)
        if self.is_embedding:
            factors = factors[1].T, factors[0].T
        left, right = np.float32(self.scale) * factors[0], factors[1]
        norms = None if self.magnitude is None else self.magnitude.floats().ravel()
        squares = np.zeros(matrix.shape[1], np.float64)
        for rows in _row_slices(matrix.shape):
            matrix[rows] += left[rows] @ right
            if norms is None:
                continue
            if self.is_embedding:
                squares += np.square(matrix[rows], dtype=np.float64).sum(axis=0)
            else:
                current = np.linalg.norm(matrix[rows], axis=1)
                matrix[rows] *= (norms[rows] / current)[:, None]
        if norms is not None and self.is_embedding:
            matrix *= (norms / np.sqrt(squares)).astype(np.float32)


@dataclass(frozen=True)
class MergedTensor(TensorInfo):
    """A tensor of a checkpoint with an adapter's change.

    Attributes:
        base: The checkpoint's tensor.
        change: The adapter's change.
    """

    base: TensorInfo
    change: Change

    @classmethod
    def create(cls, base: TensorInfo, change: Change) -> Self:
        """Returns a tensor of a checkpoint with an adapter's change."""
        known = {field.name: getattr(base, field.name) for field in fields(TensorInfo)}
        return cls(**known, base=base, change=change)

    @property
    def part_dtype(self) -> np.dtype[Any]:
        """Returns float32, in which the sum is computed."""
        return np.dtype(np.float32)

    def parts(self, rows: int) -> Iterator[Floats]:
        """Yields the changed values, some rows at a time.

        Args:
            rows: Maximum number of rows of a part.

        Raises:
            CheckpointError: If a sum overflows float32.
        """
        values = self.floats()
        for start in range(0, len(values), rows):
            yield values[start : start + rows]

    def floats(self) -> Floats:
        """Returns the changed values as a new array.

        Raises:
            CheckpointError: If a sum overflows float32.
        """
        return self.change.apply(self.source_name, self.base.mapped())


def is_finite(tensor: TensorInfo) -> bool:
    """Returns True if a tensor contains neither NaN nor infinity."""
    values = tensor.mapped()
    return all(
        bool(np.isfinite(as_floats(values[rows])).all())
        for rows in _row_slices(values.shape)
    )


def _row_slices(shape: tuple[int, ...]) -> list[slice]:
    """Returns slices of the first dimension with a bounded number of elements each."""
    rows = shape[0]
    step = max(1, _ELEMENTS_AT_ONCE // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    return [slice(start, start + step) for start in range(0, rows, step)]
