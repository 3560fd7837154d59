"""Both vector widths of the own operations, as far as this CPU has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from mllama.kernels.choice import AVX2, AVX512, VARIABLE, chosen_kernels

KERNELS: Final = (AVX2, "auto") if chosen_kernels() == AVX512 else (AVX2,)
"""What the environment variable is set to for each."""


@contextmanager
def made_of(kernels: str) -> Iterator[None]:
    """Graphs that are built meanwhile are made of these operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, kernels)
        yield
