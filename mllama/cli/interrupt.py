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

_exiting = threading.RLock()


def exit_on_interrupt() -> None:
    """Ends the process at once on Ctrl-C, until SIGINT gets another handler.

    Nothing is unwound, since a compilation can't be interrupted.  Partial files are
    removed; processes that compile or prepare images end with this one.  Commands that
    have more to end, such as ``serve``, install their own handler first.
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
    # If the watching thread is first, the main one must not go on writing meanwhile.
    # A second Ctrl-C may interrupt the main thread here.
    with _exiting:
        remove_unfinished()
        # Nobody may read stderr, or it is closed and None.
        with contextlib.suppress(OSError, AttributeError):
            os.write(sys.stderr.fileno(), b"\n")
        os._exit(INTERRUPTED)
