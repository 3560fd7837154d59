"""Both vector widths of the own operations, as far as this CPU has them."""

from __future__ import annotations

from typing import Final

from benchmarks.kernels.interleaved import made_of
from mllama.kernels.dispatch import AVX2, AVX512, chosen_kernels

__all__ = ["KERNELS", "made_of"]

KERNELS: Final = (AVX2, "auto") if chosen_kernels() == AVX512 else (AVX2,)
"""What :func:`made_of` is told for each."""
