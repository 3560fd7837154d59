"""Compiles a graph in a separate process, on another core.

MAX compiles one graph at a time in each process and uses little more than one core for
it.  The first run of a model compiles two graphs that take minutes each.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from typing import Protocol

from mllama.utils.child_processes import end_with_parent, restore_child_environment
from mllama.utils.torch_blocker import block_torch


class ParallelTask(Protocol):
    """A picklable task for the separate process."""

    def run(self) -> None:
        """Compiles a graph and stores it."""


def start_in_parallel(
    task: ParallelTask, *, niceness: int = 0
) -> subprocess.Popen[bytes] | None:
    """Starts a process that runs a task and ends with the calling thread.

    Args:
        task: The task.
        niceness: By how much the process yields to others, up to 19.

    Returns:
        The process; None if it can't be started.
    """
    # Importing MAX has changed the environment that children inherit.
    restore_child_environment()
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from {__name__} import main; main({niceness}, {os.getpid()})",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
    except OSError:
        return None
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pickle.dump(task, pipe)
    return process


def main(niceness: int, parent: int) -> None:
    """Runs the task that the parent process writes to standard input.

    Args:
        niceness: By how much the process yields to others.
        parent: Process id of the parent.
    """
    # Threads inherit it: MAX, which the task imports, must not have started any.
    os.nice(niceness)
    end_with_parent(parent)
    # With Python's handler, Ctrl-C would wait until the compilation ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    block_torch()
    pickle.load(sys.stdin.buffer).run()
