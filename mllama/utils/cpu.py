"""The CPU of this machine: its instruction sets and usable cores."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_INSTRUCTION_SETS = re.compile(
    r"(s?sse|avx|fma|f16c|bmi|amx|abm|adx|movbe|popcnt|sha|vaes|gfni|vpclmul|asimd|sve"
    r"|sme(\d|_|$)|neon|fphp|bf16|i8mm|aes|crc32|atomics|dotprod|vfpv|mmx)"
)
"""Those features of the kernel's list for which compilers generate code."""


_assumed: tuple[str, ...] | None = None


def assume_cpu_features(features: tuple[str, ...]) -> None:
    """Makes :func:`cpu_features` return another CPU's features in this process.

    A process that compiles for another CPU calls this before anything else.
    """
    global _assumed
    _assumed = features


def cpu_features() -> tuple[str, ...]:
    """Returns the architecture of this machine's CPU and its instruction sets.

    If the system doesn't list the instruction sets, the CPU's name replaces them.
    """
    return _host_features() if _assumed is None else _assumed


@functools.cache
def _host_features() -> tuple[str, ...]:
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


def usable_cores() -> int:
    """Returns the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
