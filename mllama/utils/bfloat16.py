"""Conversions of bfloat16, stored as its bits in uint16, to and from float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Converts the bits of bfloat16 values to float32."""
    values = bits.astype(np.uint32)
    values <<= 16
    return values.view(np.float32)


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Returns the bits of the nearest bfloat16 values, rounding ties to even.

    Args:
        values: Finite values.
    """
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def as_floats(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Converts floats of any type to float32; uint16 means the bits of bfloat16."""
    if values.dtype == np.uint16:
        return from_bfloat16(values)
    return np.asarray(values, np.float32)
