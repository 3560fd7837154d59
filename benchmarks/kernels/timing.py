"""Times calls in turn, so that changes in a machine's speed affect all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from mllama.kernels.dispatch import (
    AVX2,
    AVX512,
    AVXVNNI,
    AVXVNNI_FEATURE,
    MAX,
    VARIABLE,
    chosen_kernels,
)
from mllama.utils.cpu import cpu_features

_BASE: Final = {"MAX's": MAX, "custom, AVX2": AVX2}
_AVX512: Final = {"custom, AVX-512": "auto"} if chosen_kernels() == AVX512 else {}
_AVXVNNI: Final = (
    {"custom, AVX-VNNI": AVXVNNI} if AVXVNNI_FEATURE in cpu_features() else {}
)

KERNELS: Final = _BASE | _AVX512
"""Kernels that this CPU supports, with their values of the environment variable; the
last are those that it gets by itself."""

INT8_KERNELS: Final = _BASE | _AVXVNNI | _AVX512
"""The same for products of int8, which have a form between AVX2 and AVX-512."""


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
