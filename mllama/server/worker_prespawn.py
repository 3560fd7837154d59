"""Starts a worker process before it is needed.

A worker imports MAX and transformers, which takes seconds.  The first one does so while
the server imports them and reads its options; the next one, while the one before
serves, so that it can take its place at once.  The process is that of Python's
``spawn`` method, except that its interpreter starts before its task is known, and that
the task is written apart from the start: it has the tokenizer, megabytes of which a
pipe takes 64 KiB, so the writer waits until the process reads, if ever it does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from multiprocessing import (
    context,
    popen_spawn_posix,
    reduction,
    resource_tracker,
    spawn,
    util,
)
from typing import Any

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

    def command(task: int, tracker: int) -> list[Any]:
        code = (
            "from mllama.server.worker_prespawn import run_worker; "
            f"run_worker({task}, {tracker}, {os.getpid()}, with_torch={with_torch})"
        )
        return [
            spawn.get_executable(),
            *util._args_from_interpreter_flags(),  # type: ignore[attr-defined]
            "-c",
            code,
            "--multiprocessing-fork",
        ]

    _prespawned = _start(command)


def _start(command: Callable[[int, int], list[Any]], *inherited: int) -> _Prespawned:
    """Starts a process that reads its task from a pipe.

    Args:
        command: Returns its command line, for the descriptors of the task and of
            ``multiprocessing``'s resource tracker.
        inherited: Further descriptors that it inherits.

    Raises:
        OSError: If the system has no room for it.
    """
    # A Python program that runs the command may have imported MAX already: its settings
    # would reach the worker, and from there the process that compiles in parallel,
    # which would then find no packages.
    restore_child_environment()
    tracker = resource_tracker.getfd()
    assert tracker is not None
    opened: list[int] = []
    try:
        opened += os.pipe()
        opened += os.pipe()
        sentinel, sentinel_of_child, task_of_child, task = opened
        line = command(task_of_child, tracker)
        passed = [tracker, task_of_child, sentinel_of_child, *inherited]
        pid = util.spawnv_passfds(line[0], line, passed)
    except BaseException:
        _close(*opened)
        raise
    _close(task_of_child, sentinel_of_child)
    return _Prespawned(pid, task, sentinel)


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


@dataclass
class _Task:
    """What a process is to run, as it is sent to it.

    Attributes:
        content: The pickled task.
        descriptors: Those that the process has to inherit.
    """

    content: BytesIO = field(default_factory=BytesIO)
    descriptors: list[int] = field(default_factory=list)

    # multiprocessing calls these while it pickles.
    DupFd = popen_spawn_posix.Popen.DupFd

    def duplicate_for_child(self, descriptor: int) -> int:
        self.descriptors.append(descriptor)
        return descriptor


class PrespawnedPopen(popen_spawn_posix.Popen):
    """A ``multiprocessing`` launcher that uses the prespawned process if any."""

    def _launch(self, process_obj: PrespawnedProcess) -> None:
        descriptors = process_obj.task.descriptors
        started = _take()
        if started is not None and descriptors:
            # Only a process that is not yet running can inherit them.
            started.end()
            started = None
        if started is None:
            started = _start(_plain_command, *descriptors)
        self.pid, self.sentinel = started.pid, started.sentinel
        self.task_pipe = started.task
        # The worker would take the end of the pipe for that of the server.
        self.finalizer = util.Finalize(self, _close, (started.sentinel, started.task))


def _plain_command(task: int, tracker: int) -> list[Any]:
    return spawn.get_command_line(tracker_fd=tracker, pipe_handle=task)


class PrespawnedProcess(context.SpawnProcess):
    """A process whose start waits for nothing.

    Call :meth:`pickle_task` before :meth:`start`, and what :meth:`task_writer` returns
    afterwards.  These two may take long, and belong in a thread.  The start belongs in
    one that lives as long as the program, since on Linux the process ends with it.
    """

    _Popen = staticmethod(PrespawnedPopen)
    task: _Task

    def pickle_task(self) -> None:
        """Pickles what the process will run."""
        task: Any = _Task()
        # Threads have one of their own.
        context.set_spawning_popen(task)
        try:
            reduction.dump(spawn.get_preparation_data(self.name), task.content)
            reduction.dump(self, task.content)
        finally:
            context.set_spawning_popen(None)
        self.task = task

    def task_writer(self) -> Callable[[], None]:
        """Returns what sends the task to the process, which must have started.

        It returns when the process has read nearly all, or has ended.
        """
        # The process's own descriptor may be closed, and its number used anew, before
        # the writer notices that the process has ended.
        pipe = os.dup(self._popen.task_pipe)  # type: ignore[attr-defined]
        content = self.task.content
        del self.task

        def write() -> None:
            # One that has died shows by its sentinel.
            with contextlib.suppress(BrokenPipeError), open(pipe, "wb") as file:
                file.write(content.getbuffer())

        return write


def run_worker(task: int, tracker: int, server: int, *, with_torch: bool) -> None:
    """Imports the worker's modules, then runs the task; called in the new process.

    Args:
        task: Descriptor to read the pickled task from.
        tracker: Descriptor of ``multiprocessing``'s resource tracker.
        server: Process id of the server.
        with_torch: Whether remote code, which may need torch, will run in the process.
    """
    end_with_parent(server)
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
