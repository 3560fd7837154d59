"""Workload i: guessed tokens, with acceptance rates that are forced, and by lookup."""

from __future__ import annotations

from benchmarks.compare.metrics import FORCED, FORCED_WITH_PICTURE, LOOKUPS
from benchmarks.compare.session import Session
from benchmarks.compare.variants import SPECULATION


def guesses(session: Session, number: int) -> None:
    """Runs one round of the workload."""
    for prefix, rates, pictured in (
        ("forced_", FORCED, False),
        ("forced_picture_", FORCED_WITH_PICTURE, True),
    ):
        for name, rate in rates.items():
            session.measure(
                SPECULATION,
                {f"{prefix}{name}": ""},
                "forced",
                rate=rate,
                seed=number,
                pictured=pictured,
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
