"""What the engines of ggml's family share: the check of the build, and the clock.

It uses only the standard library, like the protocol.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NEEDED = ("AVX2", "FMA", "F16C")
"""Instruction sets that a library must use if the processor has them."""

CONTEXT, BATCH = 4608, 512
"""Length of the context, and tokens of a prompt that are computed together."""

_TOKENS = 256


def check_build(system: str, absent: str, features: str | None = None) -> None:
    """Refuses a library that wasn't compiled for the instructions of the run.

    Args:
        system: The library's description of its build.
        absent: Instruction sets that it must not use, separated by commas.
        features: The processor's flags; default: those of this machine.

    Raises:
        RuntimeError: If it lacks an instruction set that the processor has, or uses
            one that it must not.
    """
    has = (features or Path("/proc/cpuinfo").read_text()).upper().split()
    lacks = [name for name in NEEDED if name in has and f"{name} = 1" not in system]
    if lacks:
        raise RuntimeError(f"the library was built without {', '.join(lacks)}")
    uses = [name for name in absent.split(",") if name and f"{name} = 1" in system]
    if uses:
        raise RuntimeError(f"the library was built with {', '.join(uses)}")


def timed_answer(
    tokens: int,
    new_tokens: int,
    decode: Callable[[Sequence[int]], int],
) -> dict[str, Any]:
    """Times a prompt of random tokens and its greedy answer.

    Args:
        tokens: Length of the prompt.
        new_tokens: Length of the answer.
        decode: Appends tokens to the context and returns the likeliest next one.
    """
    prompt = [random.randrange(_TOKENS) for _ in range(tokens)]
    started = time.perf_counter()
    chosen = decode(prompt)
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        chosen = decode([chosen])
    ended = time.perf_counter()
    return {
        "first": first - started,
        "per_token": (ended - first) / (new_tokens - 1) if new_tokens > 1 else None,
        "prompt_tokens": tokens,
    }
