"""bfloat16, which NumPy knows as its bits only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """float32 values of bfloat16 ones."""
    values = bits.astype(np.uint32)
    values <<= 16
    return values.view(np.float32)
