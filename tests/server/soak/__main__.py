"""``make soak``: mixed traffic with faults, and whether anything is left behind.

Answers are compared with those of a server that has nothing else to do.  The report is
Markdown.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from mllama.demo_model import PICTURES
from tests.processes import is_running
from tests.server.conftest import Server, running
from tests.server.fuzzing.damaged_images import damaged
from tests.server.fuzzing.exchange import Exchange
from tests.server.fuzzing.hostile_requests import chats, picture_chats
from tests.server.fuzzing.running_server import RunningServer, reproducer_line

from .questions import APIS, Question
from .samples import MUST_END_AT_ZERO, Sample, growth, take_sample, worker_of

CLIENTS: Final = 6
VARIANTS: Final = 5
"""Copies of each picture."""

SAMPLE_SECONDS: Final = 10
SETTLE_SECONDS: Final = 30
WARM_UP_SECONDS: Final = 60
"""How long caches fill and threads start before memory is looked at."""

FAULT_SECONDS: Final = 150
"""Between two faults."""

RECOVERY_SECONDS: Final = 60
"""When a server has to answer again after a fault on a busy machine."""

BAD_REQUESTS: Final = 400

COUNTS: Final = ("descriptors", "threads", "sockets", "processes")
FEW: Final = 3
"""By how much more there may be of those at the end, when all is idle."""


class Soak:
    """Traffic to a server, and what is noted meanwhile.

    Args:
        server: The server.
        number: The seed of the traffic.
    """

    def __init__(self, server: Server, number: int) -> None:
        self._random = random.Random(number)
        self._server = server
        self._checked = RunningServer(server.port, server.process.pid, server.log)
        self._host = self._checked.host
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._broken = threading.Event()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.findings: collections.Counter[str] = collections.Counter()
        self.samples: list[Sample] = []
        self.recoveries: list[tuple[str, float]] = []
        self._right = dict(self._right_answers())
        self._bad = _bad_requests(self._host, number)

    def _right_answers(self) -> Iterator[tuple[tuple[str, int | None, int], str]]:
        """Asks every question alone."""
        for api in APIS:
            for question in self._questions(api):
                answer = self._checked.send(question.exchange(self._host))
                text, error = question.outcome(answer)
                assert error is None, error
                if question.picture is not None and question.variant == 0:
                    expected = PICTURES[question.picture].questions[0].answer
                    assert text.strip() == expected, (question, text)
                yield question.key, text

    @staticmethod
    def _questions(api: str) -> list[Question]:
        pictures: Sequence[int] = range(len(PICTURES)) if api != "completions" else ()
        return [
            Question(api, None),
            *(
                Question(api, picture, variant)
                for picture, variant in itertools.product(pictures, range(VARIANTS))
            ),
        ]

    @property
    def seconds(self) -> float:
        """Returns how long it has lasted."""
        return time.monotonic() - self._began

    def run(self, seconds: float) -> None:
        """Sends requests and takes samples for so long, and some after the end."""
        self._began = time.monotonic()
        clients = [
            threading.Thread(target=self._traffic, args=(number,))
            for number in range(CLIENTS)
        ]
        faults = threading.Thread(target=self._faults, args=(seconds,))
        time.sleep(SETTLE_SECONDS)
        self._sample()
        for thread in (*clients, faults):
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(SAMPLE_SECONDS)
            self._sample()
        self._stop.set()
        for thread in (*clients, faults):
            thread.join()
        time.sleep(SETTLE_SECONDS)
        self._sample()

    def _sample(self) -> None:
        sample = take_sample(self._server.process.pid, self._server.port, self.seconds)
        self.samples.append(sample)
        memory = sample.values.get("server: private MB", 0)
        print(
            f"{sample.seconds:6.0f} s  server {memory:.0f} MB  "
            f"{sum(self.outcomes.values())} requests  {sum(self.findings.values())} "
            "findings",
            file=sys.stderr,
        )

    def _note(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _find(self, what: str, exchange: Exchange | None = None) -> None:
        with self._lock:
            self.findings[what[:200]] += 1
        line = "" if exchange is None else f"\n{reproducer_line(exchange)[:3000]}"
        print(f"FOUND at {self.seconds:.0f} s: {what}{line}", file=sys.stderr)

    def _traffic(self, number: int) -> None:
        """One client's requests."""
        chance = random.Random(self._random.random() + number)
        while not self._stop.is_set():
            kind = chance.choices(("question", "leave", "bad"), (14, 2, 4))[0]
            if kind == "bad":
                self._send_bad(chance.choice(self._bad))
                continue
            api = chance.choice(list(APIS))
            asked = chance.choice(self._questions(api))
            stream = kind == "leave" or chance.random() < 0.6
            question = Question(api, asked.picture, asked.variant, stream)
            if kind == "leave":
                self._leave(question, chance.choice((-1, 0, 1, 2)))
            else:
                self._ask(question)

    def _ask(self, question: Question) -> None:
        exchange = question.exchange(self._host)
        was_broken = self._broken.is_set()
        try:
            answer = self._checked.send(exchange)
            text, error = question.outcome(answer)
        except (OSError, ValueError) as problem:
            self._find(f"no answer in {question.api}: {problem!r}", exchange)
            return
        right = self._right[question.key]
        if error is None:
            if text == right:
                self._note(f"{question.api}, right")
            else:
                self._find(f"{question}: {text!r}, not {right!r}", exchange)
            return
        self._note(f"{question.api}, error")
        if not (was_broken or self._broken.is_set()):
            self._find(f"an error without a fault: {error}", exchange)
        if error == "cut":
            self._find("a stream without an end", exchange)
        if not right.startswith(text):
            self._find(f"a wrong beginning: {text!r}, not {right!r}", exchange)

    def _leave(self, question: Question, after: int) -> None:
        exchange = question.exchange(self._host, leaves_after=after)
        try:
            self._checked.send(exchange)
        except OSError as problem:
            self._find(f"no answer to who leaves: {problem!r}", exchange)
        self._note("left by the client")

    def _send_bad(self, exchange: Exchange) -> None:
        for problem in self._checked.problems_with(exchange):
            self._find(problem, exchange)
        self._note("hostile")

    def _faults(self, seconds: float) -> None:
        """Kills or stops the worker now and then."""
        kinds = itertools.cycle((signal.SIGKILL, signal.SIGSTOP))
        pause = min(FAULT_SECONDS, seconds / 4)
        # After the last one there is time to look at memory.
        while self.seconds + pause + 2 * RECOVERY_SECONDS < seconds:
            if self._stop.wait(pause):
                return
            self._fault(next(kinds))

    def _fault(self, kind: signal.Signals) -> None:
        worker = worker_of(self._server.process.pid)
        if worker is None:
            self._find("there is no worker")
            return
        self._broken.set()
        began = time.monotonic()
        os.kill(worker, kind)
        question = Question("chat", 0)
        while time.monotonic() < began + RECOVERY_SECONDS:
            time.sleep(0.25)
            if is_running(worker):
                continue
            answer = self._checked.send(question.exchange(self._host))
            if question.outcome(answer)[1] is None:
                self.recoveries.append((kind.name, time.monotonic() - began))
                break
        else:
            self._find(f"no answers {RECOVERY_SECONDS} s after {kind.name}")
        # Requests that were sent while there was no worker may still end.
        time.sleep(5)
        self._broken.clear()

    def judge(self) -> None:
        """Adds what was left behind to the findings."""
        last = self.samples[-1].values
        for name in MUST_END_AT_ZERO:
            if last.get(name) != 0:
                self._find(f"{name}: {last.get(name)} at the end")
        # Pools of threads and connections have filled by then.
        early = self.samples[: max(2, len(self.samples) // 4)]
        for name, value in last.items():
            if name.rpartition(": ")[2] not in COUNTS or name.startswith("others"):
                continue
            before = max(sample.values.get(name, 0) for sample in early)
            if value > before + FEW:
                self._find(
                    f"{name}: up to {before:.0f} at first, {value:.0f} at the end"
                )
        for name, points in self._memories():
            grown, middle = growth(points), statistics.median(y for _, y in points)
            if grown > max(50, 0.05 * middle):
                self._find(f"{name} has grown by {grown:.0f} MB")

    def _memories(self) -> list[tuple[str, list[tuple[float, float]]]]:
        """Returns the memory of the server, and of each worker, after its warm-up."""
        lasting = [s for s in self.samples[1:-1] if s.seconds > WARM_UP_SECONDS]
        found = [
            ("server", [(s.seconds, s.values["server: private MB"]) for s in lasting])
        ]
        for worker, group in itertools.groupby(self.samples, lambda s: s.worker):
            samples = [s for s in group if "worker: private MB" in s.values]
            points = [
                (s.seconds, s.values["worker: private MB"])
                for s in samples
                if s.seconds > samples[0].seconds + WARM_UP_SECONDS
            ]
            if len(points) > 5:
                found.append((f"worker {worker}", points))
        return [(name, points) for name, points in found if len(points) > 5]

    def report(self) -> str:
        """Returns the report in Markdown."""
        lines = [
            f"{self.seconds / 60:.0f} minutes, {len(self.samples)} samples, "
            f"{sum(self.outcomes.values())} requests, {len(self.recoveries)} faults",
            "",
            "| requests | number |",
            "|---|---|",
            *(f"| {name} | {count} |" for name, count in sorted(self.outcomes.items())),
            "",
            "| fault | seconds until the next right answer |",
            "|---|---|",
            *(f"| {name} | {seconds:.1f} |" for name, seconds in self.recoveries),
            "",
            "| held | first, idle | least | most | last, idle |",
            "|---|---|---|---|---|",
        ]
        names = dict.fromkeys(name for each in self.samples for name in each.values)
        for name in names:
            values = [s.values[name] for s in self.samples if name in s.values]
            shown = (values[0], min(values), max(values), values[-1])
            lines.append(f"| {name} | " + " | ".join(f"{v:.0f}" for v in shown) + " |")
        lines += ["", "| memory | growth in MB | in minutes |", "|---|---|---|"]
        for name, points in self._memories():
            minutes = (points[-1][0] - points[0][0]) / 60
            lines.append(f"| {name} | {growth(points):+.1f} | {minutes:.1f} |")
        lines += ["", f"{sum(self.findings.values())} findings"]
        lines += [f"- {count} x {what}" for what, count in self.findings.most_common()]
        return "\n".join(lines) + "\n"


def _bad_requests(host: str, number: int) -> list[Exchange]:
    found: list[Exchange] = []

    @seed(number)
    @settings(
        max_examples=BAD_REQUESTS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(chats(host), picture_chats(host, damaged())))
    def draw(exchange: Exchange) -> None:
        found.append(exchange)

    draw()
    return found


def main() -> int:
    """Runs the soak and prints the report.

    Returns:
        The number of findings, at most 100.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.server.soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="mllama-soak-") as folder,
        running(Path(folder) / "log") as server,
    ):
        soak = Soak(server, options.seed)
        soak.run(60 * options.minutes)
        soak.judge()
        print(soak.report())
        if soak.findings:
            kept = Path(tempfile.gettempdir()) / "mllama-soak.log"
            kept.write_bytes(server.log.read_bytes())
            print(f"the server's log is in {kept}", file=sys.stderr)
        return min(100, sum(soak.findings.values()))


if __name__ == "__main__":
    sys.exit(main())
