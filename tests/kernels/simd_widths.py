"""The forms of the custom ops that this CPU supports."""

from __future__ import annotations

from typing import Final

from benchmarks.kernels import timing
from benchmarks.kernels.timing import use_kernels
from mllama.kernels.dispatch import AVX2, AVX512, MAX, chosen_kernels

__all__ = ["INT8_KERNELS", "KERNELS", "use_kernels"]

KERNELS: Final = (AVX2, "auto") if chosen_kernels() == AVX512 else (AVX2,)
"""Arguments of :func:`use_kernels`, one for each width of vectors."""

INT8_KERNELS: Final = tuple(
    kernels for kernels in timing.INT8_KERNELS.values() if kernels != MAX
)
"""Arguments of :func:`use_kernels`, one for each form of the products of int8."""
