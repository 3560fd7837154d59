"""The system says what a process does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from mllama.utils.process_activity import (
    ProcessActivity,
    process_activity,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(pid: int, holds: Callable[[ProcessActivity], bool]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        seen = process_activity(pid)
        if seen is not None and holds(seen):
            return
        time.sleep(0.02)
    raise AssertionError(process_activity(pid))


def test_a_process_that_computes_wants_to_run(
    start: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    process = start("while True: pass")
    wait_for(process.pid, lambda seen: seen.cpu_seconds > 0.2 and seen.wants_to_run)
    process.send_signal(signal.SIGSTOP)
    wait_for(process.pid, lambda seen: seen.is_stopped and not seen.wants_to_run)
    process.send_signal(signal.SIGCONT)
    wait_for(process.pid, lambda seen: seen.wants_to_run and not seen.is_stopped)


def test_a_process_that_waits_does_not_want_to_run(
    start: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    # A start alone may end before the system counts its first tick.
    process = start(
        "import threading, time\n"
        "while time.process_time() < 0.2: pass\n"
        "threading.Event().wait()"
    )
    wait_for(process.pid, lambda seen: seen.cpu_seconds > 0 and not seen.wants_to_run)


def test_a_process_that_has_ended_is_unknown() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert process_activity(process.pid) is None
