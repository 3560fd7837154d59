"""Whether graphs on this machine's CPU are made of own operations or of MAX's alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mllama.errors import MllamaError
from mllama.utils.cpu import cpu_features

if TYPE_CHECKING:
    from max.graph import DeviceRef

VARIABLE: Final = "MLLAMA_KERNELS"
"""Environment variable: ``auto``, ``avx2`` for own operations without AVX-512, or
``max`` for MAX's operations alone."""

AVX512: Final = "avx512"
AVX2: Final = "avx2"
MAX: Final = "max"

_NEEDED: Final = ("x86_64", "avx2", "fma", "f16c")
"""What own operations are written for; other CPUs get MAX's."""

_WIDE: Final = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
"""What their wide form needs beside it."""

_FOLDER = Path(__file__).parent / "mojo"


def chosen_kernels() -> str:
    """``AVX512`` or ``AVX2``, own operations of either width, or ``MAX``, for graphs on
    this CPU.

    Raises:
        MllamaError: If the environment asks for something else.
    """
    asked = os.environ.get(VARIABLE) or "auto"
    if asked not in ("auto", AVX2, MAX):
        raise MllamaError(f"{VARIABLE} must be auto, avx2 or max, not {asked!r}")
    features = set(cpu_features())
    if asked == MAX or not features.issuperset(_NEEDED):
        return MAX
    return AVX512 if asked == "auto" and features.issuperset(_WIDE) else AVX2


def uses_custom_ops(device: DeviceRef) -> bool:
    """Whether graphs on a device are made of own operations."""
    return device.is_cpu() and chosen_kernels() != MAX


def vector_width() -> int:
    """float32 values of a vector of the own operations that were chosen."""
    return 16 if chosen_kernels() == AVX512 else 8


def kernels_summary() -> str:
    """A line about the choice for the log."""
    chosen = chosen_kernels()
    if chosen != MAX:
        return f"own kernels ({'AVX-512' if chosen == AVX512 else 'AVX2'})"
    lacking = [name for name in _NEEDED if name not in cpu_features()]
    if lacking:
        return f"MAX's kernels, as this CPU lacks {', '.join(lacking)}"
    return f"MAX's kernels, as {VARIABLE} says"


def has_bfloat16_products() -> bool:
    """Whether own operations can multiply in bfloat16, twice as many values at once."""
    return chosen_kernels() == AVX512 and "avx512_bf16" in cpu_features()


def operations(name: str) -> Path:
    """The Mojo package of own operations in a folder beside this file."""
    return _FOLDER / name
