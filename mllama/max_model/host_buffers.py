"""Tensors of any device as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from max.driver import CPU, Buffer


def on_host(buffer: Buffer) -> npt.NDArray[Any]:
    """Returns the content of a buffer, which is copied only if it is on a GPU."""
    return (buffer if buffer.device.is_host else buffer.to(CPU())).to_numpy()
