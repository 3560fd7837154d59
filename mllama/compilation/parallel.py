"""One graph compiled in a process of its own, on another core.

MAX compiles one graph of a process at a time and has little for a second core to do.
The first start of a model has two graphs that take minutes each.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import subprocess
import sys
from typing import Protocol

from mllama.utils.child_processes import end_with_parent, restore_child_environment
from mllama.utils.cpu import usable_cores
from mllama.utils.torch_blocker import block_torch


class ParallelTask(Protocol):
    """What the process does; it is pickled."""

    def run(self) -> None:
        """Compiles a graph and keeps it."""


def start_in_parallel(task: ParallelTask) -> subprocess.Popen[bytes] | None:
    """Starts a process that runs a task and ends with this one.

    Returns:
        The process; None if there is no core for it, or it can't be started.
    """
    if usable_cores() < 2:
        return None
    # MAX is loaded in this process.
    restore_child_environment()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
    except OSError:
        return None
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pickle.dump(task, pipe)
    return process


def main() -> None:
    """Runs the task that the parent process has sent."""
    end_with_parent(signal.SIGKILL)
    # A compilation can't be interrupted otherwise.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    block_torch()
    pickle.load(sys.stdin.buffer).run()
