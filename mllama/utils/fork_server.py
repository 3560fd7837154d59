"""The fork server of ``multiprocessing``, which is replaced if it is stuck."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Final, TypeVar

from mllama.utils.process_activity import process_activity
from mllama.utils.stuck_processes import NoThreadError, StuckLimits, killed_if_stuck

logger = logging.getLogger("mllama")

_END_SECONDS: Final = 3.0
"""What the system may take to end a process on a busy machine."""

Process = TypeVar("Process", bound=BaseProcess)


def fork_server_pid() -> int | None:
    """Returns the id of the fork server, or None before there is one."""
    # The standard library has no public name for it.
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    return pid


def start_process(
    make: Callable[[], Process], limits: StuckLimits | None = None
) -> Process:
    """Starts a process by the fork server, and by another one if that is stuck.

    The fork server answers each start, so that whoever starts a process would wait for
    ever for one that a signal has stopped.

    Args:
        make: Makes the process, which isn't started yet.
        limits: When the fork server is stuck.

    Raises:
        OSError: If the system has no room for the process.
        EOFError: If the fork server has died meanwhile, and the next one, too.
    """
    process, server = make(), fork_server_pid()
    with killed_if_stuck(fork_server_pid, _kill, limits):
        try:
            process.start()
            return process
        except (ConnectionError, EOFError):
            # It has been killed, perhaps by another thread that waited for it.
            if server is None or not _has_ended(server):
                raise
    process = make()
    process.start()
    return process


def join_process(process: BaseProcess, limits: StuckLimits | None = None) -> None:
    """Waits for the end of a process, of which the fork server tells.

    Args:
        process: The process, which is about to end.
        limits: When the fork server is stuck.
    """
    try:
        with killed_if_stuck(fork_server_pid, _kill, limits):
            process.join()
    except NoThreadError:
        process.join(_END_SECONDS)


@atexit.register
def _end_stopped_server() -> None:
    """Kills a fork server that is stopped: the end of this program waits for it."""
    pid = fork_server_pid()
    if pid is not None and pid != os.getpid():
        activity = process_activity(pid)
        if activity is not None and activity.is_stopped:
            _kill(pid)


def _has_ended(pid: int) -> bool:
    """Returns True if a process has ended, or does so soon after its connections."""
    end = time.monotonic() + _END_SECONDS
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    try:
        while os.waitid(os.P_PID, pid, options) is None:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
    except ChildProcessError:
        pass
    return True


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        logger.warning("the fork server (process %d) was stuck and was killed", pid)
        # The next start looks whether it has ended, and must not come too early.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
