"""The targets that only the simulation can tell: 100 replicas, 10,000 pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from benchmarks.cluster_simulation.costs import COSTS
from benchmarks.cluster_simulation.figures import figures_of
from benchmarks.cluster_simulation.routers import ConsistentHash, LeastLoaded
from benchmarks.cluster_simulation.scenarios import FALLBACKS, LOADS, Setting

REQUESTS: Final = 30_000
SEED: Final = 1
TRIED: Final = 2
"""How far below the rule's ``max_ongoing_requests`` others are tried."""


def simulation() -> list[dict[str, Any]]:
    """Returns consistent hashing beside least-loaded, for each costs and load.

    ``ratio`` is that of the 99th percentiles of the time to the first token, and
    ``encoded`` how often a distinct picture is encoded.
    """
    return [
        _tuned(name, load, Setting(COSTS[name], REQUESTS, SEED))
        for name in ("11b", "demo")
        for load in LOADS
    ]


def _tuned(name: str, load: float, setting: Setting) -> dict[str, Any]:
    """Returns the best of a few numbers of requests that a replica takes."""
    least = figures_of(setting.run(LeastLoaded(), load)).p99
    runs = []
    for below in range(TRIED + 1):
        most = setting.max_ongoing - below
        cluster = replace(setting.cluster(), max_ongoing=most)
        figures = figures_of(
            setting.run(ConsistentHash(fallbacks=FALLBACKS), load, cluster)
        )
        runs.append(
            {
                "costs": name,
                "load": load,
                "max_ongoing_requests": most,
                "p99_seconds": round(figures.p99, 4),
                "least_loaded_seconds": round(least, 4),
                "ratio": round(figures.p99 / least, 3),
                "encoded": round(figures.encoded_per_distinct, 3),
            }
        )
    return min(runs, key=lambda run: max(run["ratio"] / 1.5, run["encoded"] / 1.2))
