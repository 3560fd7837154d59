"""What of this machine and these versions a compiled graph depends on."""

from __future__ import annotations

import functools
import hashlib
import platform
import re
from importlib.metadata import version
from pathlib import Path

from mllama import __version__

_CPU_INFO = Path("/proc/cpuinfo")
_INSTRUCTION_SETS = re.compile(
    r"(s?sse|avx|fma|f16c|bmi|amx|abm|adx|movbe|popcnt|sha|vaes|gfni|vpclmul|asimd|sve"
    r"|sme(\d|_|$)|neon|fphp|bf16|i8mm|aes|crc32|atomics|dotprod|vfpv|mmx)"
)
"""Of the kernel's list of features, those that a compiler generates code for."""


_X86_64_V3 = (
    "abm",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "f16c",
    "fma",
    "movbe",
    "popcnt",
    "sse",
    "sse2",
    "sse4_1",
    "sse4_2",
    "ssse3",
)
"""What every CPU of that level has, in the kernel's names."""


def host_of_gpus() -> tuple[str, tuple[str, ...]]:
    """The CPU that graphs for another machine's GPUs are compiled for.

    Returns:
        LLVM's name of it, and its features as :func:`cpu_features` has them: a level
        that machines with GPUs have.  Without one, an empty name and this machine's.
    """
    if platform.machine() == "x86_64":
        return "x86-64-v3", ("x86_64", *_X86_64_V3)
    return "", cpu_features()


def gpu_name(api: str, architecture: str) -> str:
    """A kind of GPU in a manifest: ``cuda:sm_90``.

    MAX finds an ``sm_90a`` on a machine, and makes code for it if asked for ``sm_90``.
    """
    return f"{api}:{architecture.removesuffix('a') if api == 'cuda' else architecture}"


@functools.cache
def cpu_features() -> tuple[str, ...]:
    """Architecture of this machine's CPU, then the instruction sets that it has.

    Where the system doesn't list them, the CPU's name stands for them.
    """
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return (platform.machine(), platform.processor())
    found: set[str] = set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            found.update(
                word for word in value.split() if _INSTRUCTION_SETS.match(word)
            )
            break
    return (platform.machine(), *sorted(found))


@functools.cache
def versions() -> dict[str, str]:
    """Versions that graphs depend on: MAX's, this package's and its sources'.

    The sources count since they may change between two releases.
    """
    return {
        "max": version("max"),
        "mllama": __version__,
        "sources": _sources_digest(),
    }


def _sources_digest() -> str:
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for suffix in ("py", "mojo"):
        for file in sorted(root.rglob(f"*.{suffix}")):
            digest.update(f"{file.relative_to(root)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
