"""Loading that hangs is told from loading that waits, by made-up looks at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mllama.server.supervisor.loading_watch import (
    LOOK_SECONDS,
    STILL_SECONDS,
    LoadingWatch,
)
from mllama.server.supervisor.process_tree import TreeActivity, tree_activity

NOTHING = TreeActivity(frozenset((1, 2)), 100.0, 10**9, 10**4, False)

Change = Callable[[TreeActivity, int], TreeActivity | None]


def still_after(
    change: Change, seconds: float = 7200, tick: float = LOOK_SECONDS
) -> float | None:
    """Returns when a worker that loads is found to do nothing, if it is."""
    watch, activity = LoadingWatch(), NOTHING
    for look in range(int(seconds / tick)):
        seen = change(activity, look)
        activity = seen or activity
        if watch.is_still(1000 + look * tick, seen):
            return look * tick
    return None


def more(**amounts: float) -> Change:
    """Returns what adds so much a second."""

    def change(activity: TreeActivity, look: int) -> TreeActivity:
        added: Any = {
            name: getattr(activity, name) + amount * LOOK_SECONDS
            for name, amount in amounts.items()
        }
        return replace(activity, **added)

    return change


@pytest.mark.parametrize(
    "change",
    [
        more(),
        # The heartbeat, and MAX's idle threads.
        more(cpu_seconds=0.03, transferred_bytes=100),
        # A timer has just expired at one look of thirty.
        lambda activity, look: replace(activity, wants_to_run=look % 30 == 0),
    ],
    ids=["nothing", "idle threads", "timers"],
)
def test_loading_that_does_nothing_is_found(change: Change) -> None:
    found = still_after(change)
    assert found is not None
    assert STILL_SECONDS <= found <= STILL_SECONDS + LOOK_SECONDS


@pytest.mark.parametrize(
    "change",
    [
        # Others compile, in the process or in those that it has started.
        more(cpu_seconds=0.15),
        # A disk or network that gives 10 kB/s.
        more(transferred_bytes=10_000),
        more(page_faults=1),
        # Mapped weights on a slow disk: a thread in the state D.
        lambda activity, look: replace(activity, wants_to_run=True),
        lambda activity, look: replace(activity, wants_to_run=look % 4 == 0),
        # One process after another.
        lambda activity, look: replace(activity, pids=frozenset((1, look // 50))),
        lambda activity, look: None,
    ],
    ids=["computes", "reads", "maps", "waits", "often waits", "processes", "unknown"],
)
def test_loading_that_gets_on_is_sound(change: Change) -> None:
    assert still_after(change) is None


def test_time_in_which_nobody_looked_does_not_count() -> None:
    watch = LoadingWatch()
    assert not watch.is_still(0, NOTHING)
    assert not watch.is_still(10**6, NOTHING)
    assert not watch.is_still(5, NOTHING)


def test_what_descendants_do_counts() -> None:
    computes = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"
    code = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {computes!r}])"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            while (
                (now := tree_activity(process.pid)) is None
                or len(now.pids) < 2
                or now.cpu_seconds < 1
            ):
                assert process.poll() is None
                time.sleep(0.02)
            assert now.transferred_bytes > 0
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_has_ended_does_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert tree_activity(process.pid) is None
