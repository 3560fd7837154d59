"""Both vector widths of the own operations, as far as this CPU has them."""

from __future__ import annotations

from typing import Final

from benchmarks.kernels.timing import use_kernels
from mllama.kernels.dispatch import AVX2, AVX512, chosen_kernels

__all__ = ["KERNELS", "use_kernels"]

KERNELS: Final = (AVX2, "auto") if chosen_kernels() == AVX512 else (AVX2,)
"""What :func:`use_kernels` is told for each."""
