"""``make fuzz``: thousands of hostile requests to a server with the demo model.

Each finding is printed once by its kind, with a command that sends its request again.
``--memory`` sends classes of requests instead, one after another, and prints what each
has left in memory.
"""

from __future__ import annotations

import argparse
import collections
import random
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.server.conftest import Server, running

from .batch_requests import batch_visits, uploads
from .damaged_images import damaged
from .exchange import Exchange
from .hostile_requests import (
    bulky_chats,
    chats,
    good_question,
    picture_chats,
    visits,
)
from .memory_by_class import (
    SETTLE_SECONDS,
    MemoryByClass,
    fill_caches,
    grown,
    pictures_served,
    table_line,
)
from .running_server import RunningServer, reproducer_line

PARALLEL: Final = 6
BATCH: Final = 250
"""Requests between two looks at log and processes."""

WARM_UP_REQUESTS: Final = 500


def main() -> int:
    """Runs the fuzzing.

    Returns:
        The number of kinds of findings, at most 100.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.server.fuzzing")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None, help="by default a new one")
    parser.add_argument(
        "--memory",
        nargs="?",
        const="",
        metavar="CLASS",
        help="measure memory after each class of requests, or those of that name",
    )
    parser.add_argument("--send", metavar="REPRODUCER", help="send one request again")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="mllama-fuzz-") as folder,
        running(
            Path(folder) / "log",
            "--attention",
            "--batch-dir",
            str(Path(folder) / "batches"),
        ) as server,
    ):
        if options.send is not None:
            return _send(server, Exchange.parse(options.send))
        if options.memory is not None:
            return _measure(server, options.memory)
        number = options.seed
        if number is None:
            number = random.randrange(10**6)
        return _fuzz(server, options.requests, number)


def _send(server: Server, exchange: Exchange) -> int:
    fuzzed = RunningServer(server.port, server.process.pid, server.log)
    print(exchange.shown())
    answer = fuzzed.send(exchange)
    print(answer.status, answer.body[:2000].decode(errors="backslashreplace"))
    problems = fuzzed.problems_with(exchange) + fuzzed.lasting_problems()
    print("\n".join(problems) or "nothing is wrong")
    return min(len(problems), 100)


def _measure(server: Server, only: str) -> int:
    fuzzed = RunningServer(server.port, server.process.pid, server.log)
    with pictures_served() as site:
        measuring = MemoryByClass(fuzzed, server.process.pid, site)
        print("private memory in MB, both caches full:")
        for name, size in measuring.before.items():
            print(f"  {name:16} {size / 1e6:8.1f}")
        problems = []
        for measured in measuring.run(only):
            print(table_line(measured, measuring.before), flush=True)
            problems += measured.problems
            problems += [
                f"{name} has grown by {size / 1e6:.0f} MB after {measured.name}"
                for name, size in grown(measuring.before, measured.sizes).items()
            ]
    problems += fuzzed.lasting_problems()
    print("\n".join(problems) or "nothing is wrong")
    return min(len(problems), 100)


class _Findings:
    """What was wrong, by its kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, problem: str, exchange: Exchange | None = None) -> None:
        kind = re.sub(r"'[^']*'|[0-9]+", "_", problem)[:160]
        with self._lock:
            self._counts[kind] += 1
            if self._counts[kind] > 1:
                return
        print(f"\nFOUND: {problem}")
        if exchange is not None:
            print(f"{exchange.shown()[:1500]}\n{reproducer_line(exchange)}")
        sys.stdout.flush()

    def show(self) -> None:
        for kind, count in self._counts.most_common():
            print(f"{count:6} {kind}")


def _fuzz(server: Server, requests: int, number: int) -> int:
    print(f"{requests} requests, --seed {number}")
    fuzzed = RunningServer(server.port, server.process.pid, server.log)
    host = fuzzed.host
    findings = _Findings()
    everything = st.one_of(
        *(chats(host), picture_chats(host, damaged()), visits(host)) * 3,
        *(bulky_chats(host), uploads(host), batch_visits(host)),
    )
    began = time.monotonic()
    # Threads start, libraries are loaded, caches fill.
    warm_up = min(WARM_UP_REQUESTS, requests // 4)
    _send_many(fuzzed, findings, everything, warm_up, number)
    fill_caches(fuzzed)
    before = _settled_bytes(fuzzed)
    _send_many(fuzzed, findings, everything, requests - warm_up, number + 1)
    seconds = time.monotonic() - began - SETTLE_SECONDS
    after = _settled_bytes(fuzzed)
    print(f"\n{requests} requests in {seconds:.0f} s; private memory in MB:")
    for name in sorted(before.keys() | after.keys()):
        first, last = before.get(name, 0), after.get(name, 0)
        print(f"  {name:24} {first / 1e6:8.1f} -> {last / 1e6:8.1f}")
        if last - first > max(50e6, 0.05 * first):
            findings.add(f"{name} has grown by {(last - first) / 1e6:.0f} MB")
    findings.show()
    print(f"{len(findings)} kinds of findings")
    return min(len(findings), 100)


def _settled_bytes(server: RunningServer) -> dict[str, int]:
    time.sleep(SETTLE_SECONDS)
    return server.private_bytes()


def _send_many(
    server: RunningServer,
    findings: _Findings,
    exchanges: SearchStrategy[Exchange],
    count: int,
    number: int,
) -> None:
    """Sends requests, several at a time, and looks at the server now and then."""
    room = threading.Semaphore(2 * PARALLEL)
    sent = 0

    def examine(exchange: Exchange) -> None:
        try:
            for problem in server.problems_with(exchange):
                findings.add(problem, exchange)
        finally:
            room.release()

    with ThreadPoolExecutor(PARALLEL) as pool:

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(exchanges)
        def draw(exchange: Exchange) -> None:
            nonlocal sent
            room.acquire()
            pool.submit(examine, exchange)
            sent += 1
            if sent % BATCH == 0:
                for problem in server.lasting_problems():
                    findings.add(problem, good_question(server.host))
                print(f"{sent} of {count}", end="\r", flush=True)

        draw()
    for problem in server.lasting_problems():
        findings.add(problem)


if __name__ == "__main__":
    sys.exit(main())
