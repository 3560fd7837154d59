"""A process that stands by in place of one that has imported MAX."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from mllama.server import worker_prespawn


@dataclass(frozen=True)
class ReadsLate:
    """The command of a process that reads its task when a file appears."""

    flag: Path

    def __call__(self, task: int, tracker: int) -> list[Any]:
        code = (
            "import os, time\n"
            f"while not os.path.exists({str(self.flag)!r}): time.sleep(0.02)\n"
            "from multiprocessing.spawn import spawn_main\n"
            f"spawn_main(pipe_handle={task}, tracker_fd={tracker})"
        )
        return [spawn.get_executable(), "-c", code, "--multiprocessing-fork"]


def stand_by(command: ReadsLate) -> int:
    """Starts a process for the next worker, and returns its id."""
    worker_prespawn.end_prespawned_worker()
    started = worker_prespawn._prespawned = worker_prespawn._start(command)
    return started.pid
