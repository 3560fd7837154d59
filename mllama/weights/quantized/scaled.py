"""8-bit floats and integers with scales: per tensor, row, group of columns or block.

The layouts of compressed-tensors, of transformers' ``fp8`` and ``fbgemm_fp8``, and of
bitsandbytes' int8.  A value is ``(quantized - zero point) * scale``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mllama.weights.quantized.stored import StoredTensor
from mllama.weights.quantized.tensor import Floats

SCALED_TYPES: Final = ("F8_E4M3", "F8_E5M2", "I8")
"""Element types of weights with scales."""

_INT8_SCALE = np.float32(7.874015718698502e-3)
"""bitsandbytes' constant for 1 / 127."""


def _float8_values(exponent_bits: int, *, has_infinity: bool) -> Floats:
    """Returns the value of each of the 256 bit patterns of a float of 8 bits."""
    bits = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    exponent = bits >> mantissa_bits & (2**exponent_bits - 1)
    fraction = (bits & (2**mantissa_bits - 1)) / 2**mantissa_bits
    values = np.where(
        exponent == 0,
        np.ldexp(fraction, 1 - bias),
        np.ldexp(1 + fraction, exponent - bias),
    )
    last = exponent == 2**exponent_bits - 1
    if has_infinity:
        values[last] = np.where(fraction[last] == 0, np.inf, np.nan)
    else:
        values[(bits & 0x7F) == 0x7F] = np.nan
    return np.where(bits < 128, values, -values).astype(np.float32)


_FLOAT8: Final = {
    "F8_E4M3": _float8_values(4, has_infinity=False),
    "F8_E5M2": _float8_values(5, has_infinity=True),
}


@dataclass(frozen=True)
class ScaledLayout:
    """A matrix of 8-bit elements with scales.

    Attributes:
        weights: The elements, ``[rows, ...]``.
        scale: The scales: one, one a row, or ``[blocks of rows, blocks of columns]``.
        zero_point: What is subtracted before scaling, of the scales' shape.
        column_groups: The group of each column; None if they are in order.
        block: Rows and columns of a block, if known.
    """

    weights: StoredTensor
    scale: StoredTensor
    zero_point: StoredTensor | None = None
    column_groups: StoredTensor | None = None
    block: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.weights.dtype not in SCALED_TYPES:
            raise self.weights.error(
                f"has elements of type {self.weights.dtype} with a scale, but only "
                f"{', '.join(SCALED_TYPES)} are supported"
            )
        if not self.scale.is_float:
            raise self.scale.error(
                f"has elements of type {self.scale.dtype}, which scales of such "
                "weights don't have"
            )
        _ = self._block_sizes
        zero_point = self.zero_point
        if zero_point is not None and (
            math.prod(zero_point.shape) != math.prod(self.scale.shape)
        ):
            raise zero_point.error("has another shape than the scale")
        if zero_point is not None and zero_point.dtype not in ("I8", "U8", "I32"):
            raise zero_point.error(f"has elements of type {zero_point.dtype}")
        groups = self.column_groups
        if groups is not None and (
            groups.shape != (self._columns,) or groups.dtype not in ("I32", "I64")
        ):
            raise groups.error("has no whole number for each column")

    def check(self) -> None:
        """Checks the groups of the columns."""
        _ = self._group_of_column

    def rows(self, start: int, stop: int) -> Floats:
        """Returns the values of some rows, as a new array."""
        elements = self.weights.mapped()[start:stop]
        if self.weights.dtype in _FLOAT8:
            values = _FLOAT8[self.weights.dtype][elements]
        else:
            values = elements.astype(np.float32)
        values = values.reshape(len(elements), -1)
        if self.zero_point is not None:
            zero = self.zero_point.mapped().astype(np.float32)
            values -= self._spread(zero, start, stop)
        values *= self._spread(self.scale.floats(), start, stop)
        return values

    @property
    def _columns(self) -> int:
        return math.prod(self.weights.shape[1:])

    @cached_property
    def _scale_shape(self) -> tuple[int, int]:
        shape = self.scale.shape
        if math.prod(shape) == 1:
            return 1, 1
        if len(shape) == 1:
            return shape[0], 1
        rows, columns, *rest = shape
        return (rows, columns) if all(size == 1 for size in rest) else (0, 0)

    @cached_property
    def _block_sizes(self) -> tuple[int, int]:
        """Returns how many rows and columns share a scale.

        Raises:
            CheckpointError: If the scales don't fit the weights.
        """
        rows, columns = self.weights.shape[0], self._columns
        blocks = self._scale_shape
        if self.block is not None and min(blocks) > 0 and blocks[0] not in (1, rows):
            sizes = self.block
        elif 0 in blocks or rows % blocks[0] or columns % blocks[1]:
            sizes = (0, 0)
        elif blocks[0] not in (1, rows):
            sizes = (0, 0)  # The last block may be a part of one: config.json says.
        else:
            sizes = (rows // blocks[0], columns // blocks[1])
        if 0 in sizes or blocks != (-(-rows // sizes[0]), -(-columns // sizes[1])):
            raise self.scale.error(
                f"has shape {list(self.scale.shape)}, which doesn't fit weights of "
                f"shape {list(self.weights.shape)}"
            )
        return sizes

    @cached_property
    def _group_of_column(self) -> npt.NDArray[Any]:
        groups, (_, size) = self._scale_shape[1], self._block_sizes
        if self.column_groups is not None:
            order = np.asarray(self.column_groups.mapped())
            if not (order == -1).any():  # -1 means that they are in order.
                if order.min() < 0 or order.max() >= groups:
                    raise self.column_groups.error("names a group that doesn't exist")
                return order
        return np.arange(self._columns) // size

    def _spread(self, values: npt.NDArray[Any], start: int, stop: int) -> Floats:
        """Returns a value for each weight of some rows, or one that broadcasts."""
        table = values.reshape(self._scale_shape)
        picked = table[np.arange(start, stop) // self._block_sizes[0]]
        return picked if table.shape[1] == 1 else picked[:, self._group_of_column]


@dataclass(frozen=True)
class RowMaximaLayout:
    """A matrix in bitsandbytes' int8: each row's largest magnitude is 127.

    Attributes:
        weights: The integers, ``[rows, columns]``.
        maxima: Each row's largest magnitude, ``[rows]``.
        order: The order of the elements; only 0, row by row, is read.
    """

    weights: StoredTensor
    maxima: StoredTensor
    order: StoredTensor | None = None

    def __post_init__(self) -> None:
        if self.weights.dtype != "I8" or len(self.weights.shape) != 2:
            raise self.weights.error("is no matrix of 8-bit integers, but has SCB")
        if math.prod(self.maxima.shape) != self.weights.shape[0]:
            raise self.maxima.error(
                f"has shape {list(self.maxima.shape)}, which doesn't fit weights of "
                f"shape {list(self.weights.shape)}"
            )

    def check(self) -> None:
        """Checks the order of the elements."""
        if self.order is not None and np.any(self.order.bytes()):
            raise self.order.error(
                "isn't 0: the weights are ordered for a kind of GPU; save them again "
                "with a later bitsandbytes"
            )

    def rows(self, start: int, stop: int) -> Floats:
        """Returns the values of some rows, as a new array."""
        values = self.weights.mapped()[start:stop].astype(np.float32)
        values *= self.maxima.floats().reshape(-1, 1)[start:stop]
        values *= _INT8_SCALE
        return values
