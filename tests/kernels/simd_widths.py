"""The SIMD widths of the custom ops that this CPU supports."""

from __future__ import annotations

from typing import Final

from benchmarks.kernels.timing import use_kernels
from mllama.kernels.dispatch import AVX2, AVX512, chosen_kernels

__all__ = ["KERNELS", "use_kernels"]

KERNELS: Final = (AVX2, "auto") if chosen_kernels() == AVX512 else (AVX2,)
"""Arguments of :func:`use_kernels`, one for each width."""
