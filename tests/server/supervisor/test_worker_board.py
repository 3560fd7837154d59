"""What the worker announces, the server's process reads."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mllama.server.supervisor.worker_board import (
    Announcement,
    WorkerBoard,
    WorkKind,
)


@pytest.fixture
def board() -> Iterator[WorkerBoard]:
    with WorkerBoard.temporary() as board:
        yield board


def batch(*lengths: int) -> Any:
    requests = [
        SimpleNamespace(tokens=SimpleNamespace(active_length=length))
        for length in lengths
    ]
    return SimpleNamespace(flat_batch=requests)


def test_announcements_cross_the_processes(board: WorkerBoard) -> None:
    worker: WorkerBoard = pickle.loads(pickle.dumps(board))
    assert board.read() == Announcement()
    worker.announce(WorkKind.LOADING)
    assert board.read().work is WorkKind.LOADING
    assert not board.read().is_loaded
    worker.set()
    assert board.read().is_loaded
    assert board.read().work is WorkKind.NONE
    board.clear()
    assert worker.read() == Announcement()


def test_a_step_is_announced_with_its_work_and_over_at_any_end(
    board: WorkerBoard,
) -> None:
    seen: list[Announcement] = []

    def execute(inputs: Any) -> str:
        seen.append(board.read())
        if not inputs.flat_batch:
            raise RuntimeError("empty")
        return "outputs"

    announced = board.announcing(execute, lambda: 2)
    assert announced(batch(30, 1)) == "outputs"
    with pytest.raises(RuntimeError, match="empty"):
        announced(batch())
    assert (seen[0].work, seen[0].tokens, seen[0].images) == (WorkKind.STEP, 31, 2)
    assert str(seen[0]) == "a step of 31 token(s) and 2 image(s)"
    assert seen[1].number > seen[0].number
    assert board.read().work is WorkKind.NONE


def test_limits_follow_the_work() -> None:
    small, large, seen = (
        Announcement(work=WorkKind.STEP, tokens=tokens, images=images).limit_seconds
        for tokens, images in ((1, 0), (512, 0), (12, 1))
    )
    assert small is not None
    assert large is not None
    assert seen is not None
    # One token of decode; a chunk of a prompt; a picture of 11B's shape on two cores.
    assert small < 120
    assert large > 5 * 512 * 0.3
    assert seen > 5 * 99
    assert Announcement(rounds=1).limit_seconds is None
    # The start, in which MAX is imported.
    assert Announcement().limit_seconds == 600


def test_the_heart_beats(board: WorkerBoard) -> None:
    board.start_beating()
    end = time.monotonic() + 10
    while board.read().beats < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert board.read().beats >= 2
