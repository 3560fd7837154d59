"""A cache buffer whose memory the system commits lazily."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType

_ALIGNMENT = 64
"""Bytes; the widest vectors are read in one piece."""


class LazilyCommittedBuffer:
    """A replacement of MAX's ``Buffer`` that allocates caches lazily.

    MAX writes zeros to the whole cache, which may never be full: 13 GB in 20 s as
    measured.  Fresh pages of the system are zeros already and cost nothing until they
    are used; NumPy requests huge pages.
    """

    @staticmethod
    def zeros(shape: Sequence[int], dtype: DType, device: Device) -> Buffer:
        """Returns a buffer of zeros; on the host its pages are committed on first use.

        Args:
            shape: Shape of the buffer.
            dtype: Data type of the elements.
            device: Device of the buffer.
        """
        if not device.is_host:
            return Buffer.zeros(shape, dtype, device)
        size = math.prod(shape) * dtype.size_in_bytes
        memory = np.zeros(size + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        return Buffer.from_numpy(memory[first : first + size]).view(dtype, shape)
