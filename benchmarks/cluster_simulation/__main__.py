"""Simulates clusters: ``python -m benchmarks.cluster_simulation``.

    python -m benchmarks.cluster_simulation --costs 11b --only routers,tuning
    python -m benchmarks.cluster_simulation --costs 11b --encode-seconds 0.2

It prints a table for each question, in Markdown.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from benchmarks.cluster_simulation.costs import COSTS
from benchmarks.cluster_simulation.scenarios import SCENARIOS, Setting


def main() -> None:
    """Runs the scenarios, and prints their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--costs", choices=sorted(COSTS), default="11b")
    parser.add_argument("--encode-seconds", type=float, help="for another machine")
    parser.add_argument("--prefill-token-seconds", type=float)
    parser.add_argument("--only", default=",".join(SCENARIOS), metavar="NAMES")
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"--only has {min(unknown)!r}; it can have {', '.join(SCENARIOS)}")
    if options.requests < 1000:
        parser.error("--requests must be 1000 or more")
    costs = COSTS[options.costs]
    if options.encode_seconds is not None:
        costs = replace(costs, encode=options.encode_seconds)
    if options.prefill_token_seconds is not None:
        costs = replace(costs, prefill_token=options.prefill_token_seconds)
    setting = Setting(costs, options.requests, options.seed)
    print(f"Costs {options.costs}: {costs.source}.")
    for name in names:
        started = time.process_time()
        print(f"\n### {name}\n")
        for number, row in enumerate(SCENARIOS[name](setting)):
            print(f"| {' | '.join(row)} |", flush=True)
            if not number:
                print(f"|{'---|' * len(row)}")
        print(f"\n{time.process_time() - started:.0f} s of CPU time.")


if __name__ == "__main__":
    main()
