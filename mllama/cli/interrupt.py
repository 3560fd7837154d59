"""Ctrl-C ends a command at once, whatever its threads are doing."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Final

from mllama.utils.atomic_file import remove_unfinished

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 plus the signal's number."""

_exiting = threading.Lock()


def exit_on_interrupt() -> None:
    """Ends the process at once on Ctrl-C, until SIGINT gets another handler.

    Nothing is unwound, since a compilation can't be interrupted.  Only a file that is
    being quantized needs cleaning up: ``generate`` starts no other process, and
    ``serve`` installs its own handler before it starts any.
    """
    signal.signal(signal.SIGINT, _exit_at_once)
    # Python calls a handler in the main thread only.  A signal that another thread
    # receives doesn't wake it, and it may wait for a compilation.
    received, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    threading.Thread(
        target=_watch, args=(received,), name="mllama-interrupt", daemon=True
    ).start()


def _watch(received: int) -> None:
    while number := os.read(received, 1):
        is_interrupt = number[0] == signal.SIGINT
        if is_interrupt and signal.getsignal(signal.SIGINT) is _exit_at_once:
            _exit_at_once(signal.SIGINT, None)


def _exit_at_once(signum: int, frame: FrameType | None) -> None:
    # The main thread and the watching one may both come here.
    if not _exiting.acquire(blocking=False):
        return
    remove_unfinished()
    # Nobody may read stderr, or it is closed and None.
    with contextlib.suppress(OSError, AttributeError):
        os.write(sys.stderr.fileno(), b"\n")
    os._exit(INTERRUPTED)
