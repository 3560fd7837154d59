"""The model's process, started while the server is still reading its options.

Both processes import MAX and transformers, which takes seconds.  MAX starts its worker
when the server has done so; started before, the worker does it on another core
meanwhile.  It is Python's own ``spawn``: only the interpreter is there earlier than
what it shall run.
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

_WORKER_MODULES = ("mllama.max_model.arch", "mllama.server.app")
"""What the worker needs, as MAX's own worker does."""


@dataclass
class _Waiting:
    """A process that waits for what it shall run.

    Attributes:
        pid: Its id.
        job: Descriptor to write that to.
        sentinel: Descriptor that is readable when the process has ended.
    """

    pid: int
    job: int
    sentinel: int

    def end(self) -> None:
        """Ends the process, which has nothing to lose."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        _close(self.job, self.sentinel)


_waiting: _Waiting | None = None


def prespawn_worker(*, with_torch: bool = False) -> None:
    """Starts the process; whoever starts a :class:`PrespawnedPopen` gets it.

    Importing MAX makes its threads: what limits them must be there before.

    Args:
        with_torch: Whether code of a repository's own will run in it, which may need
            torch.
    """
    global _waiting
    # MAX may be loaded already, by whoever runs the command from Python.
    restore_child_environment()
    tracker = resource_tracker.getfd()
    assert tracker is not None
    sentinel, sentinel_of_child = os.pipe()
    job_of_child, job = os.pipe()
    code = (
        "from mllama.server.worker_prespawn import wait; "
        f"wait({job_of_child}, {tracker}, with_torch={with_torch})"
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
            command[0], command, [tracker, job_of_child, sentinel_of_child]
        )
    finally:
        _close(job_of_child, sentinel_of_child)
    _waiting = _Waiting(pid, job, sentinel)


def end_prespawned_worker() -> None:
    """Ends the process if nobody has taken it."""
    if (waiting := _take()) is not None:
        waiting.end()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _take() -> _Waiting | None:
    global _waiting
    waiting, _waiting = _waiting, None
    return waiting


class PrespawnedPopen(popen_spawn_posix.Popen):
    """How ``multiprocessing`` starts a process: in the one that waits, if one does."""

    _fds: list[int]

    def _launch(self, process_obj: context.SpawnProcess) -> None:
        waiting = _take()
        if waiting is None:
            super()._launch(process_obj)  # type: ignore[misc]
            return
        job = BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj.name), job)
            reduction.dump(process_obj, job)
        finally:
            context.set_spawning_popen(None)
        if self._fds:
            # Descriptors can only be handed to a process that is yet to be started.
            waiting.end()
            self._fds = []
            super()._launch(process_obj)  # type: ignore[misc]
            return
        self.pid, self.sentinel = waiting.pid, waiting.sentinel
        self.finalizer = util.Finalize(self, _close, (waiting.sentinel, waiting.job))
        with (
            contextlib.suppress(BrokenPipeError),  # It has ended: the sentinel tells.
            open(waiting.job, "wb", closefd=False) as pipe,
        ):
            pipe.write(job.getbuffer())


def wait(job: int, tracker: int, *, with_torch: bool) -> None:
    """Imports what the model needs, then runs what is asked for; in the new process.

    Args:
        job: Descriptor to read that from.
        tracker: Descriptor of ``multiprocessing``'s resource tracker.
        with_torch: As in :func:`prespawn_worker`.
    """
    end_with_parent(signal.SIGKILL)
    # Ctrl-C is the server's to handle until there is something to interrupt.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not with_torch:
        block_torch()
    for name in _WORKER_MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        spawn.spawn_main(pipe_handle=job, tracker_fd=tracker)
    except EOFError:
        # The server has ended before it came to start the model.
        sys.exit(0)
