"""Times calls in turn, so that changes in a machine's speed affect all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from mllama.kernels.dispatch import AVX2, AVX512, MAX, VARIABLE, chosen_kernels

KERNELS: Final = {"MAX's": MAX, "custom, AVX2": AVX2} | (
    {"custom, AVX-512": "auto"} if chosen_kernels() == AVX512 else {}
)
"""Kernels that this CPU supports, with their values of the environment variable."""


@contextmanager
def use_kernels(kernels: str) -> Iterator[None]:
    """Selects the kernels of graphs that are built within the context.

    Args:
        kernels: A value of the environment variable.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = kernels
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def time_calls(
    calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Makes each call once a round, and returns its seconds by name."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return times
