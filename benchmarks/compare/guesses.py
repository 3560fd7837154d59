"""Workload i: guessed tokens, with acceptance rates that are forced, and by lookup."""

from __future__ import annotations

from benchmarks.compare.metrics import FORCED, LOOKUPS
from benchmarks.compare.session import Session
from benchmarks.compare.variants import SPECULATION


def guesses(session: Session, number: int) -> None:
    """Runs one round of the workload."""
    for name, rate in FORCED.items():
        session.measure(
            SPECULATION, {f"forced_{name}": ""}, "forced", rate=rate, seed=number
        )
    for metric, (kind, streams) in LOOKUPS.items():
        session.measure(
            SPECULATION,
            {metric: ""},
            "lookup",
            kind=kind,
            streams=streams,
            number=number,
        )
