"""Calls timed one after the other in each round, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

HEADER = f"{'':44}{'min ms':>9}{'median':>9}{'GFLOP/s':>9}{'ratio':>7}"


def report(
    title: str, calls: Mapping[str, Callable[[], object]], work: float, rounds: int
) -> None:
    """Prints a line for each call; ratios are to the first, of the least times.

    Args:
        title: What the calls do.
        calls: By name.
        work: Floating point operations of a call, in thousands of millions.
        rounds: How often each is called.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    base = min(next(iter(times.values())))
    for name, taken in times.items():
        least, median = min(taken), float(np.median(taken))
        print(
            f"{title + ', ' + name:44}{least * 1e3:9.1f}{median * 1e3:9.1f}"
            f"{work / least:9.1f}{base / least:7.2f}",
            flush=True,
        )
