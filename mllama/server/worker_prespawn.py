"""Starts a worker process before it is needed.

A worker imports MAX and transformers, which takes seconds.  The first one does so while
the server imports them and reads its options; the next one, while the one before
serves, so that it can take its place at once.  The process is that of Python's
``spawn`` method, except that its interpreter starts before its task is known.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import (
    context,
    popen_spawn_posix,
    reduction,
    resource_tracker,
    spawn,
    util,
)

from mllama.utils.child_processes import end_with_parent, restore_child_environment
from mllama.utils.torch_blocker import block_torch

_WORKER_IMPORTS = ("mllama.max_model.arch", "mllama.server.worker_pipeline")
"""The modules that the worker imports while it waits for its task."""


@dataclass
class _Prespawned:
    """A process that waits for its task.

    Attributes:
        pid: Process id.
        task: Descriptor to write the pickled task to.
        sentinel: Descriptor that becomes readable when the process ends.
    """

    pid: int
    task: int
    sentinel: int

    def is_alive(self) -> bool:
        """Returns True unless the process has ended, which a system that is out of
        memory may do to one that waits."""
        with contextlib.suppress(ChildProcessError):
            ended, _ = os.waitpid(self.pid, os.WNOHANG)
            return not ended
        return False

    def end(self) -> None:
        """Kills the process, which has no state yet."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        _close(self.task, self.sentinel)


_prespawned: _Prespawned | None = None


def prespawn_worker(*, with_torch: bool = False) -> None:
    """Starts the process that the next :class:`PrespawnedPopen` uses, unless it runs.

    It ends with the thread that calls this function.  Importing MAX creates its
    threads, so limits on threads must be set before.

    Args:
        with_torch: Whether remote code, which may need torch, will run in the process.
    """
    global _prespawned
    if (prespawned := _take()) is not None:
        _prespawned = prespawned
        return
    # A Python program that runs the command may have imported MAX already.
    restore_child_environment()
    tracker = resource_tracker.getfd()
    assert tracker is not None
    sentinel, sentinel_of_child = os.pipe()
    task_of_child, task = os.pipe()
    code = (
        "from mllama.server.worker_prespawn import run_worker; "
        f"run_worker({task_of_child}, {tracker}, with_torch={with_torch})"
    )
    command = [
        spawn.get_executable(),
        *util._args_from_interpreter_flags(),  # type: ignore[attr-defined]
        "-c",
        code,
        "--multiprocessing-fork",
    ]
    try:
        pid = util.spawnv_passfds(
            command[0], command, [tracker, task_of_child, sentinel_of_child]
        )
    finally:
        _close(task_of_child, sentinel_of_child)
    _prespawned = _Prespawned(pid, task, sentinel)


def end_prespawned_worker() -> None:
    """Kills the prespawned process unless it is in use."""
    if (prespawned := _take()) is not None:
        prespawned.end()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _take() -> _Prespawned | None:
    global _prespawned
    prespawned, _prespawned = _prespawned, None
    if prespawned is not None and not prespawned.is_alive():
        _close(prespawned.task, prespawned.sentinel)
        return None
    return prespawned


class PrespawnedPopen(popen_spawn_posix.Popen):
    """A ``multiprocessing`` launcher that uses the prespawned process if any."""

    _fds: list[int]

    def _launch(self, process_obj: context.SpawnProcess) -> None:
        prespawned = _take()
        if prespawned is None:
            self._launch_now(process_obj)
            return
        task = BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj.name), task)
            reduction.dump(process_obj, task)
        finally:
            context.set_spawning_popen(None)
        if self._fds:
            # Only a process that is not yet running can inherit file descriptors.
            prespawned.end()
            self._fds = []
            self._launch_now(process_obj)
            return
        self.pid, self.sentinel = prespawned.pid, prespawned.sentinel
        self.finalizer = util.Finalize(
            self, _close, (prespawned.sentinel, prespawned.task)
        )
        with (
            contextlib.suppress(BrokenPipeError),  # It died, as the sentinel shows.
            open(prespawned.task, "wb", closefd=False) as pipe,
        ):
            pipe.write(task.getbuffer())

    def _launch_now(self, process_obj: context.SpawnProcess) -> None:
        # MAX is loaded: its settings would reach the worker, and from there the process
        # that compiles in parallel, which would then find no packages.
        restore_child_environment()
        super()._launch(process_obj)  # type: ignore[misc]


def run_worker(task: int, tracker: int, *, with_torch: bool) -> None:
    """Imports the worker's modules, then runs the task; called in the new process.

    Args:
        task: Descriptor to read the pickled task from.
        tracker: Descriptor of ``multiprocessing``'s resource tracker.
        with_torch: Whether remote code, which may need torch, will run in the process.
    """
    end_with_parent(signal.SIGKILL)
    # A terminal sends Ctrl-C to both, but the server decides when its worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not with_torch:
        block_torch()
    for name in _WORKER_IMPORTS:
        importlib.import_module(name)
    try:
        spawn.spawn_main(pipe_handle=task, tracker_fd=tracker)
    except EOFError:
        # The server ended before it sent a task.
        sys.exit(0)
