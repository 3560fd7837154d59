"""Figures of two tensors that should be equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from max.driver import Buffer
from max.dtype import DType

from mllama.max_model.host_buffers import on_host
from mllama.runtime.gpu_self_check import TOKEN_TOLERANCE, TOLERANCE
from mllama.utils.bfloat16 import as_floats


@dataclass(frozen=True)
class Comparison:
    """How a tensor differs from the one that it should equal.

    A row is a tensor's first dimension: a patch, or a token of an image.

    Attributes:
        is_equal: Whether it is equal but for rounding.
        is_bit_equal: Whether all values are the same.
        difference: The root mean squared difference over the spread, of all values.
        worst_row: The same of the row that differs most.
        first_index: The index of the first value that differs; None if none does.
        rows_not_bit_equal: The number of rows with a difference.
        differing_rows: The number of rows that differ by more than rounding, or of all
            with a difference if there are none.
        first_row: The first of them.
        last_row: The last of them.
        rows: The number of rows.
        largest: The largest magnitude of a finite value.
        not_finite: The number of values that are infinite or not numbers.
        equals: What the differing rows equal, of what they were compared with; None if
            nothing.
    """

    is_equal: bool
    is_bit_equal: bool
    difference: float
    worst_row: float
    first_index: list[int] | None
    rows_not_bit_equal: int
    differing_rows: int
    first_row: int | None
    last_row: int | None
    rows: int
    largest: float
    not_finite: int
    equals: str | None

    @property
    def pattern(self) -> str:
        """Returns which rows differ, and what that says unless their values do."""
        if self.differing_rows == self.rows:
            return f"all {self.rows} rows" + (" (H1)" if self.equals is None else "")
        if self.differing_rows == (self.last_row or 0) + 1:
            return (
                f"the first {self.differing_rows} of {self.rows} rows "
                "(a race or a stray write)"
            )
        return (
            f"{self.differing_rows} of {self.rows} rows, "
            f"from {self.first_row} to {self.last_row}"
        )

    def __str__(self) -> str:
        if self.is_bit_equal:
            return "equal"
        if self.is_equal:
            return f"equal but for rounding ({self.difference:.2g} of the spread)"
        parts = [f"{self.difference:.3g} of the spread in {self.pattern}"]
        if self.not_finite:
            parts.append(f"{self.not_finite} values not finite")
        if self.equals:
            parts.append(f"they are {self.equals}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as JSON values."""
        # JSON has no infinity.
        return {
            name: value
            if not isinstance(value, float) or np.isfinite(value)
            else str(value)
            for name, value in asdict(self).items()
        }


def compare(
    actual: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    others: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Comparison:
    """Compares two tensors.

    Args:
        actual: ``[rows, ...]``.
        expected: The same shape.
        others: What the tensor may be instead, of the same shape, by description.
    """
    others = others or {}
    differs = (actual != expected) & ~(_is_nan(actual) & _is_nan(expected))
    not_bit_equal = np.flatnonzero(differs.reshape(len(differs), -1).any(axis=1))
    finite = np.isfinite(actual)
    is_usable = finite & np.isfinite(expected)
    errors = np.where(is_usable, actual - expected.astype(np.float64), 0)
    spread = max(
        float(np.std(expected[np.isfinite(expected)])) if expected.size else 0.0,
        float(np.finfo(np.float32).tiny),
    )
    by_row = np.sqrt((errors.reshape(len(errors), -1) ** 2).mean(axis=1)) / spread
    difference = float(np.sqrt((errors**2).mean()) / spread)
    worst_row = float(by_row.max())
    is_bit_equal = not differs.any()
    is_wrong = (differs & ~is_usable).reshape(len(differs), -1).any(axis=1)
    rows = np.flatnonzero(is_wrong | (by_row > TOLERANCE))
    if not len(rows):
        rows = not_bit_equal
    return Comparison(
        is_equal=is_bit_equal
        or bool(
            np.issubdtype(actual.dtype, np.floating)
            and is_usable.all()
            and difference <= TOLERANCE
            and worst_row <= TOKEN_TOLERANCE
        ),
        is_bit_equal=is_bit_equal,
        difference=difference,
        worst_row=worst_row,
        first_index=None if is_bit_equal else [int(i) for i in np.argwhere(differs)[0]],
        rows_not_bit_equal=len(not_bit_equal),
        differing_rows=len(rows),
        first_row=int(rows[0]) if len(rows) else None,
        last_row=int(rows[-1]) if len(rows) else None,
        rows=len(actual),
        largest=float(np.abs(actual[finite]).max()) if finite.any() else 0.0,
        not_finite=int((~finite).sum()),
        equals=next(
            (
                name
                for name, other in others.items()
                if len(rows) and np.array_equal(actual[rows], other[rows])
            ),
            None,
        ),
    )


def _is_nan(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if not np.issubdtype(values.dtype, np.floating):
        return np.zeros(values.shape, np.bool_)
    return np.isnan(values)


def to_array(buffer: Buffer) -> npt.NDArray[Any]:
    """Returns a copy of a tensor on the host; bfloat16 becomes float32."""
    if buffer.dtype is DType.bfloat16:
        return as_floats(on_host(buffer.view(DType.uint16)))
    return np.array(on_host(buffer))
