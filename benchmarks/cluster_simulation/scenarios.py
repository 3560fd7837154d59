"""The questions that the simulation answers, each with a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.cluster_simulation.costs import Costs
from benchmarks.cluster_simulation.figures import Figures, figures_of
from benchmarks.cluster_simulation.routers import (
    ConsistentHash,
    Key,
    LeastLoaded,
    PowerOfTwo,
    RoundRobin,
    Router,
)
from benchmarks.cluster_simulation.simulation import (
    Change,
    Cluster,
    Run,
    Simulation,
    seconds_at,
)
from benchmarks.cluster_simulation.workload import Workload

FALLBACKS: Final = 16
CACHE_PICTURES: Final = 256
SPREAD: Final = 5.0
LOADS: Final = (0.5, 0.7)


@dataclass(frozen=True)
class Setting:
    """What all scenarios of a run share.

    Attributes:
        costs: What work takes.
        requests: Requests of each simulation.
        seed: Makes the same requests each time.
    """

    costs: Costs
    requests: int
    seed: int

    @property
    def max_ongoing(self) -> int:
        """Returns how many requests a replica takes.

        Beyond a full batch, as many wait as are answered while a picture is encoded:
        then waiting takes no longer than encoding the picture elsewhere.
        """
        costs, workload = self.costs, self.workload()
        service = costs.service(workload.prompt_tokens, workload.new_tokens)
        return costs.max_batch + math.ceil(costs.encode / service)

    def workload(self) -> Workload:
        """Returns questions about 10,000 pictures."""
        return Workload(self.requests)

    def cluster(self, replicas: int = 100) -> Cluster:
        """Returns so many replicas."""
        return Cluster(replicas, self.costs, CACHE_PICTURES, self.max_ongoing)

    def run(
        self,
        router: Router,
        load: float,
        cluster: Cluster | None = None,
        workload: Workload | None = None,
        change: Change | None = None,
        encoded: float | None = None,
    ) -> Run:
        """Returns what happens."""
        cluster = cluster or self.cluster()
        workload = workload or self.workload()
        chats = workload.chats(seconds_at(load, cluster, workload, encoded), self.seed)
        changes = [] if change is None else [change]
        return Simulation(cluster, router, changes).run(chats, workload.requests)


Row = list[str]
Scenario = Callable[[Setting], Iterator[Row]]
"""Yields the head of a table, and then its rows."""

_HEAD: Final = [
    "pictures there",
    "encoded per distinct picture",
    "p50",
    "p99",
    "imbalance",
    "moved on",
]


def _cells(figures: Figures) -> Row:
    return [
        f"{100 * figures.hits:.1f} %",
        f"{figures.encoded_per_distinct:.2f}",
        seconds(figures.p50),
        seconds(figures.p99),
        f"{figures.imbalance:.2f}",
        f"{100 * figures.moved:.0f} %",
    ]


def seconds(value: float) -> str:
    """Returns a time, readably."""
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def routers(setting: Setting) -> Iterator[Row]:
    """Yields routers beside each other, at loads of 50 and 70 %."""
    yield ["load", "router", *_HEAD]
    cluster = setting.cluster()
    batch = replace(cluster, max_ongoing=setting.costs.max_batch)
    shared = replace(
        cluster, shares_cache=True, cache_pictures=setting.workload().pictures
    )
    for load in LOADS:
        for name, router, each in (
            ("round-robin", RoundRobin(), cluster),
            ("power of two choices", PowerOfTwo(), cluster),
            ("least-loaded", LeastLoaded(), cluster),
            ("hash, Ray's defaults", ConsistentHash(), batch),
            ("hash, tuned", ConsistentHash(fallbacks=FALLBACKS), cluster),
            (
                "hash, tuned, hot pictures with several keys",
                ConsistentHash(fallbacks=FALLBACKS, spread=SPREAD),
                cluster,
            ),
            ("least-loaded over one shared cache", LeastLoaded(), shared),
        ):
            figures = figures_of(setting.run(router, load, each))
            yield [f"{100 * load:.0f} %", name, *_cells(figures)]


def least_loaded(setting: Setting) -> Iterator[Row]:
    """Yields hashing beside least-loaded, at loads that least-loaded can carry."""
    yield ["load", "router", *_HEAD]
    idle = figures_of(setting.run(LeastLoaded(), 0.05))
    encoded = idle.encoded / idle.requests
    for load in LOADS:
        for name, router in (
            ("least-loaded", LeastLoaded()),
            ("hash, tuned", ConsistentHash(fallbacks=FALLBACKS)),
        ):
            figures = figures_of(setting.run(router, load, encoded=encoded))
            yield [f"{100 * load:.0f} %", name, *_cells(figures)]


def tuning(setting: Setting) -> Iterator[Row]:
    """Yields numbers of fallbacks, and of requests that a replica takes."""
    yield ["load", "fallbacks", "`max_ongoing_requests`", *_HEAD]
    most, batch = setting.max_ongoing, setting.costs.max_batch
    choices = [(each, most) for each in (0, 2, 4, 8, FALLBACKS)]
    choices += [(FALLBACKS, each) for each in (batch, (batch + most) // 2, 2 * most)]
    for load in LOADS:
        for fallbacks, max_ongoing in choices:
            cluster = replace(setting.cluster(), max_ongoing=max_ongoing)
            router = ConsistentHash(fallbacks=fallbacks)
            figures = figures_of(setting.run(router, load, cluster))
            yield [
                f"{100 * load:.0f} %",
                str(fallbacks),
                str(max_ongoing),
                *_cells(figures),
            ]


def sizes(setting: Setting) -> Iterator[Row]:
    """Yields clusters of 8 to 1,000 replicas, at a load of 50 %."""
    yield ["replicas", "router", *_HEAD]
    for replicas in (8, 32, 100, 320, 1000):
        for name, router in (
            ("round-robin", RoundRobin()),
            ("hash, tuned", ConsistentHash(fallbacks=FALLBACKS)),
            (
                "with several keys",
                ConsistentHash(fallbacks=FALLBACKS, spread=SPREAD),
            ),
        ):
            run = setting.run(router, 0.5, setting.cluster(replicas))
            yield [f"{replicas:,}", name, *_cells(figures_of(run))]


def caches(setting: Setting) -> Iterator[Row]:
    """Yields sizes of the image cache, at a load of 50 %."""
    yield ["pictures in a cache", *_HEAD]
    for pictures in (11, 32, 64, 100, 128, 192, CACHE_PICTURES):
        cluster = replace(setting.cluster(), cache_pictures=pictures)
        run = setting.run(ConsistentHash(fallbacks=FALLBACKS), 0.5, cluster)
        yield [str(pictures), *_cells(figures_of(run))]


def keys(setting: Setting) -> Iterator[Row]:
    """Yields chats by their first and by their newest picture."""
    yield ["turns with another picture", "key", *_HEAD]
    costs = setting.costs
    workload = replace(setting.workload(), turns=4.0)
    think = 10 * costs.service(workload.prompt_tokens, workload.new_tokens)
    for new_picture in (0.1, 0.5):
        chats = replace(workload, new_picture=new_picture, think=think)
        key: Key
        for key in ("first", "newest"):
            router = ConsistentHash(key, fallbacks=FALLBACKS)
            figures = figures_of(setting.run(router, 0.3, workload=chats))
            yield [f"{100 * new_picture:.0f} %", f"{key} picture", *_cells(figures)]


def changes(setting: Setting) -> Iterator[Row]:
    """Yields what replicas that come and go cost, at a load of 50 %."""
    window = setting.requests // 25
    yield [
        "change",
        f"pictures there: the {window:,} requests before",
        f"the {window:,} after",
        f"the next {window:,}",
        "p99 before",
        "p99 after",
        "p99 of the next",
        "asked again",
    ]
    half = setting.requests // 2
    for name, change in (
        ("none", Change(0.5)),
        ("5 of 100 replicas lost", Change(0.5, lost=5)),
        ("5 added", Change(0.5, added=5)),
        ("5 lost and replaced", Change(0.5, lost=5, added=5)),
    ):
        router = ConsistentHash(fallbacks=FALLBACKS)
        run = setting.run(router, 0.5, change=change)
        parts = [
            figures_of(run, run.requests[half + place : half + place + window])
            for place in (-window, 0, window)
        ]
        yield [
            name,
            *(f"{100 * part.hits:.1f} %" for part in parts),
            *(seconds(part.p99) for part in parts),
            str(figures_of(run).lost),
        ]


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "routers": routers,
    "least-loaded": least_loaded,
    "tuning": tuning,
    "sizes": sizes,
    "caches": caches,
    "keys": keys,
    "changes": changes,
}
