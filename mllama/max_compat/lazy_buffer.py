"""Memory for caches, which may be most of a machine's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType

from mllama.max_compat.model import jenga_cache_manager

_ALIGNMENT = 64
"""Bytes; the widest vectors are read in one piece."""


class LazilyCommittedBuffer:
    """Stands for MAX's ``Buffer`` where that makes zeros.

    MAX writes the zeros, of a cache that may never be full: 13 GB in 20 s, as measured.
    The system's fresh pages are zeros as well, and cost nothing until they are used;
    NumPy asks for huge ones.
    """

    @staticmethod
    def zeros(shape: Sequence[int], dtype: DType, device: Device) -> Buffer:
        """Zeros, on the host in pages that are not there before they are used.

        Args:
            shape: Of the buffer.
            dtype: Its elements.
            device: Where it is.
        """
        if not device.is_host:
            return Buffer.zeros(shape, dtype, device)
        size = math.prod(shape) * dtype.size_in_bytes
        memory = np.zeros(size + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        return Buffer.from_numpy(memory[first : first + size]).view(dtype, shape)


def zero_lazily() -> None:
    """Has MAX's KV caches made of such memory."""
    jenga_cache_manager.Buffer = LazilyCommittedBuffer
