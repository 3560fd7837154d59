"""What a run says: hits, balance, times to the first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.cluster_simulation.simulation import Run
from benchmarks.cluster_simulation.workload import Request


@dataclass(frozen=True)
class Figures:
    """Figures of some requests of a run.

    Attributes:
        requests: How many they are.
        hits: The part whose pictures' keys and values were all there.
        encoded: Pictures that were encoded for them.
        distinct: Distinct pictures that they are about.
        p50: Median time to the first token, in seconds.
        p99: The same of 99 %.
        imbalance: The time that the busiest replica worked over the mean.
        used: The part of their time that replicas worked.
        moved: The part that a replica refused because it was full.
        lost: Requests that were asked again because their replica was lost.
    """

    requests: int
    hits: float
    encoded: int
    distinct: int
    p50: float
    p99: float
    imbalance: float
    used: float
    moved: float
    lost: int

    @property
    def encoded_per_distinct(self) -> float:
        """Returns how often a picture was encoded."""
        return self.encoded / self.distinct


def figures_of(run: Run, requests: Sequence[Request] | None = None) -> Figures:
    """Returns the figures of a run.

    Args:
        run: The run.
        requests: Those of its requests that count; None are all.  The balance is that
            of the whole run.
    """
    requests = run.requests if requests is None else requests
    waits = np.array([each.first_token - each.arrived for each in requests])
    p50, p99 = np.quantile(waits, [0.5, 0.99])
    busy = np.array([replica.busy for replica in run.replicas])
    return Figures(
        requests=len(requests),
        hits=sum(not each.encoded for each in requests) / len(requests),
        encoded=sum(each.encoded for each in requests),
        distinct=len({picture for each in requests for picture in each.pictures}),
        p50=float(p50),
        p99=float(p99),
        imbalance=float(busy.max() / busy.mean()),
        used=float(busy.mean() / run.seconds),
        moved=sum(each.refusals > 0 for each in requests) / len(requests),
        lost=sum(each.losses > 0 for each in requests),
    )
