"""Measures a cluster of this machine: where requests go, faults, scaling, overhead.

    python -m benchmarks.cluster                     # everything, about 20 minutes
    python -m benchmarks.cluster routing overhead    # some parts
    python -m benchmarks.cluster --results FILE kill # adds to those in a file

Prints the figures as JSON, and a table of what is to be reached; ends with 1 if
something isn't.  The parts:

``routing``: 300 requests of 6 clients about 30 pictures, in a random order, to 3
replicas of the demo model; by consistent hashing of the picture, and beside it round
robin.

``kill``: 8 clients stream from 3 replicas, one of which is killed with SIGKILL.
``lost`` are requests that ended without an answer or an error that says why.

``scaling``: 24 clients until a cluster of one replica has three, and one client until
it has one again.

``overhead``: single requests in turn to ``mllama serve`` and to a cluster of one
replica.

``batch``: ``mllama batch --ray`` with 2,000 questions, killed twice.

``simulation``: what :mod:`benchmarks.cluster_simulation` says of 100 replicas.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.cluster.batch import batch
from benchmarks.cluster.faults import kill, scaling
from benchmarks.cluster.overhead import overhead
from benchmarks.cluster.routing import routing
from benchmarks.cluster.simulated import simulation
from benchmarks.cluster.targets import missed, table

PARTS: Final[Mapping[str, Callable[[], Any]]] = {
    "routing": routing,
    "kill": kill,
    "scaling": scaling,
    "overhead": overhead,
    "batch": batch,
    "simulation": simulation,
}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--results", type=Path, help="JSON file that earlier parts are read from"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}")
    results: dict[str, Any] = {}
    if options.results is not None and options.results.exists():
        results = json.loads(options.results.read_text())
    for name in options.parts or PARTS:
        # As it is read from a file, too.
        results[name] = json.loads(json.dumps(PARTS[name]()))
        if options.results is not None:
            options.results.write_text(json.dumps(results, indent=2))
    print(json.dumps(results, indent=2))
    print("\n".join(table(results)))
    sys.exit(bool(missed(results)))


if __name__ == "__main__":
    main()
