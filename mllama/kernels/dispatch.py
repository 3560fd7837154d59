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
"""Environment variable: ``auto``, ``avx2`` for custom ops without AVX-512 and VNNI,
``avxvnni`` for custom ops with VNNI but without AVX-512, or ``max`` for MAX's ops
alone."""

AVX512: Final = "avx512"
AVXVNNI: Final = "avxvnni"
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

AVXVNNI_FEATURE: Final = "avx_vnni"
"""The CPU feature that custom ops with VNNI in vectors of 256 bits also require.

Intel's desktop CPUs have it from the 12th generation on, without AVX-512.
"""

_LABELS: Final = {AVX512: "AVX-512", AVXVNNI: "AVX-VNNI", AVX2: "AVX2"}

HEAD_DIM_MULTIPLE: Final = 8
"""The custom ops for attention require heads whose width is a multiple of this."""

_FOLDER = Path(__file__).parent / "mojo"


def chosen_kernels() -> str:
    """Returns the kernels of graphs on this CPU.

    Returns:
        ``AVX512``, ``AVXVNNI`` or ``AVX2`` for custom ops with these instructions, or
        ``MAX``.

    Raises:
        MllamaError: If the environment variable has an unknown value, or asks for VNNI
            on a CPU that lacks it.
    """
    requested = os.environ.get(VARIABLE) or "auto"
    if requested not in ("auto", AVXVNNI, AVX2, MAX):
        raise MllamaError(
            f"{VARIABLE} must be auto, avxvnni, avx2 or max, not {requested!r}"
        )
    features = set(cpu_features())
    has_avx2 = features.issuperset(AVX2_FEATURES)
    has_vnni = has_avx2 and AVXVNNI_FEATURE in features
    if requested == AVXVNNI and not has_vnni:
        raise MllamaError(
            f"{VARIABLE} is avxvnni, but this CPU lacks {AVXVNNI_FEATURE}; use auto"
        )
    if requested == MAX or not has_avx2:
        return MAX
    if requested == "auto" and features.issuperset(AVX512_FEATURES):
        return AVX512
    return AVXVNNI if requested != AVX2 and has_vnni else AVX2


def uses_custom_ops(device: DeviceRef) -> bool:
    """Returns True if graphs on a device use the custom ops."""
    return device.is_cpu() and chosen_kernels() != MAX


def simd_width() -> int:
    """Returns the number of float32 values in a vector of the chosen custom ops."""
    return 16 if chosen_kernels() == AVX512 else 8


def has_vnni() -> bool:
    """Returns True if the chosen custom ops multiply int8 with VNNI."""
    return chosen_kernels() in (AVX512, AVXVNNI)


def kernels_summary(chosen: str) -> str:
    """Describes kernels that :func:`chosen_kernels` returns, in a line for the log."""
    if chosen != MAX:
        return f"custom kernels ({_LABELS[chosen]})"
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
