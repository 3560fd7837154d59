"""Processes that don't go on are killed, and none that only waits for a processor."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mllama.utils.process_activity import ProcessActivity
from mllama.utils.stuck_processes import StuckLimits, _Watch, killed_if_stuck

LIMITS = StuckLimits(stopped=3, idle=60, total=1200)


def activity(
    cpu: float, *, is_stopped: bool = False, wants: bool = False
) -> ProcessActivity:
    return ProcessActivity(cpu, is_stopped, wants)


def stuck_after(looks: Iterator[ProcessActivity | None]) -> float | None:
    """When a process is taken for stuck that is looked at once a second."""
    watch = _Watch(LIMITS, 0)
    for now, look in enumerate(looks, 1):
        if watch.is_stuck(now, look):
            return now
    return None


def test_a_process_that_computes_has_the_whole_time() -> None:
    assert stuck_after(activity(now, wants=True) for now in range(3000)) == 1201


def test_a_process_that_gets_no_processor_is_not_stuck() -> None:
    assert stuck_after(activity(0, wants=True) for _ in range(1000)) is None


def test_a_process_that_computes_now_and_then_is_not_stuck() -> None:
    assert stuck_after(activity(now // 50) for now in range(1000)) is None


def test_a_process_that_waits_for_ever_is_stuck() -> None:
    assert stuck_after(activity(5) for _ in range(1000)) == 62


def test_a_stopped_process_is_stuck_in_seconds() -> None:
    def looks(pause: int) -> Iterator[ProcessActivity]:
        for now in range(100):
            yield activity(now, is_stopped=10 <= now < 10 + pause, wants=True)

    assert stuck_after(looks(50)) == 14
    # One that goes on in time isn't.
    assert stuck_after(looks(3)) is None


def test_a_system_that_says_nothing_has_the_whole_time() -> None:
    assert stuck_after(None for _ in range(1200)) is None
    assert stuck_after(None for _ in range(1201)) == 1201


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        yield process
        process.kill()


def test_a_process_is_killed_when_it_is_stopped(
    sleeper: subprocess.Popen[bytes],
) -> None:
    killed = []

    def kill(pid: int) -> None:
        killed.append(pid)
        sleeper.kill()

    limits = StuckLimits(stopped=0.2, look=0.02)
    with killed_if_stuck(lambda: sleeper.pid, kill, limits) as was_killed:
        time.sleep(0.5)
        assert not was_killed.is_set()
        sleeper.send_signal(signal.SIGSTOP)
        assert sleeper.wait(30) == -signal.SIGKILL
        assert was_killed.is_set()
    assert killed == [sleeper.pid]


def test_nothing_is_killed_afterwards(sleeper: subprocess.Popen[bytes]) -> None:
    limits = StuckLimits(stopped=1, look=0.02)
    with killed_if_stuck(lambda: sleeper.pid, lambda _: sleeper.kill(), limits):
        sleeper.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    assert sleeper.poll() is None
