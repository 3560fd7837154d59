"""Calls that are timed in turn, so that a machine's moods meet all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from mllama.kernels.dispatch import AVX2, AVX512, MAX, VARIABLE, chosen_kernels

KERNELS: Final = {"MAX's": MAX, "own, AVX2": AVX2} | (
    {"own, AVX-512": "auto"} if chosen_kernels() == AVX512 else {}
)
"""What graphs can be made of on this CPU, as the environment variable says it."""


@contextmanager
def made_of(kernels: str) -> Iterator[None]:
    """Graphs that are built meanwhile are made of these operations."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = kernels
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def timed(
    calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call, by name, each made once a round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return times
