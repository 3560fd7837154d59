"""Decides whether graphs on this machine's CPU use the custom ops or only MAX's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mllama.errors import MllamaError
from mllama.utils.cpu import cpu_features

if TYPE_CHECKING:
    from max.graph import DeviceRef

VARIABLE: Final = "MLLAMA_KERNELS"
"""Environment variable: ``auto``, ``avx2`` for custom ops without AVX-512, or ``max``
for MAX's ops alone."""

AVX512: Final = "avx512"
AVX2: Final = "avx2"
MAX: Final = "max"

AVX2_FEATURES: Final = ("x86_64", "avx2", "fma", "f16c")
"""CPU features that all custom ops require; other CPUs use MAX's ops."""

AVX512_FEATURES: Final = (
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
)
"""CPU features that custom ops with AVX-512 also require."""

_FOLDER = Path(__file__).parent / "mojo"


def chosen_kernels() -> str:
    """Returns the kernels of graphs on this CPU.

    Returns:
        ``AVX512`` or ``AVX2`` for custom ops with these instructions, or ``MAX``.

    Raises:
        MllamaError: If the environment variable has an unknown value.
    """
    requested = os.environ.get(VARIABLE) or "auto"
    if requested not in ("auto", AVX2, MAX):
        raise MllamaError(f"{VARIABLE} must be auto, avx2 or max, not {requested!r}")
    features = set(cpu_features())
    if requested == MAX or not features.issuperset(AVX2_FEATURES):
        return MAX
    has_avx512 = features.issuperset(AVX512_FEATURES)
    return AVX512 if requested == "auto" and has_avx512 else AVX2


def uses_custom_ops(device: DeviceRef) -> bool:
    """Returns True if graphs on a device use the custom ops."""
    return device.is_cpu() and chosen_kernels() != MAX


def simd_width() -> int:
    """Returns the number of float32 values in a vector of the chosen custom ops."""
    return 16 if chosen_kernels() == AVX512 else 8


def kernels_summary(chosen: str) -> str:
    """Describes kernels that :func:`chosen_kernels` returns, in a line for the log."""
    if chosen != MAX:
        return f"custom kernels ({'AVX-512' if chosen == AVX512 else 'AVX2'})"
    missing = [name for name in AVX2_FEATURES if name not in cpu_features()]
    if missing:
        return f"MAX's kernels, since this CPU lacks {', '.join(missing)}"
    return f"MAX's kernels, since {VARIABLE} is max"


def supports_bfloat16() -> bool:
    """Returns True if custom ops can multiply in bfloat16, two products at a time."""
    return chosen_kernels() == AVX512 and "avx512_bf16" in cpu_features()


def mojo_package(name: str) -> Path:
    """Returns the path of a Mojo package of custom ops."""
    return _FOLDER / name
