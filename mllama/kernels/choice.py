"""Whether graphs on this machine's CPU are made of own operations or of MAX's alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mllama.compiled.host import cpu_features
from mllama.errors import MllamaError

if TYPE_CHECKING:
    from max.graph import DeviceRef

VARIABLE: Final = "MLLAMA_KERNELS"
"""Environment variable: ``auto``, or ``max`` for MAX's operations alone."""

OWN: Final = "own"
MAX: Final = "max"

_NEEDED: Final = ("x86_64", "avx2", "fma", "f16c")
"""What own operations are written for; other CPUs get MAX's."""

_FOLDER = Path(__file__).parent


def chosen_kernels() -> str:
    """``OWN`` or ``MAX``, for graphs on this CPU.

    Raises:
        MllamaError: If the environment asks for something else.
    """
    asked = os.environ.get(VARIABLE) or "auto"
    if asked not in ("auto", MAX):
        raise MllamaError(f"{VARIABLE} must be auto or max, not {asked!r}")
    has_all = set(_NEEDED) <= set(cpu_features())
    return OWN if asked == "auto" and has_all else MAX


def uses_own(device: DeviceRef) -> bool:
    """Whether graphs on a device are made of own operations."""
    return device.is_cpu() and chosen_kernels() == OWN


def described_kernels() -> str:
    """A line about the choice for the log."""
    if chosen_kernels() == OWN:
        return "own kernels (AVX2)"
    lacking = [name for name in _NEEDED if name not in cpu_features()]
    if lacking:
        return f"MAX's kernels, as this CPU lacks {', '.join(lacking)}"
    return f"MAX's kernels, as {VARIABLE} says"


def operations(name: str) -> Path:
    """The Mojo package of own operations in a folder beside this file."""
    return _FOLDER / name
