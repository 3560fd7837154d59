"""Calls that are timed in turn, so that a machine's moods meet all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


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
