"""Ctrl-C, whichever thread receives it and whatever the main thread does."""

from __future__ import annotations

import subprocess
import sys

import pytest

SETUP = """
import os, signal, threading, time
from mllama.cli.interrupt import exit_on_interrupt

exit_on_interrupt()
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SETUP + program],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("receiver", ["main", "current"])
def test_a_main_thread_that_waits_is_ended(receiver: str) -> None:
    # As while another thread compiles.
    done = run(
        f"""
def interrupt():
    time.sleep(0.2)
    thread = threading.{receiver}_thread()
    signal.pthread_kill(thread.ident, signal.SIGINT)
    time.sleep(60)

threading.Thread(target=interrupt, daemon=True).start()
lock = threading.Lock()
lock.acquire()
lock.acquire()
"""
    )
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "\n")


def test_it_ends_without_a_reader_of_stderr() -> None:
    assert run("os.close(2); signal.raise_signal(signal.SIGINT)").returncode == 130
    program = """
received, written = os.pipe()
os.dup2(written, 2)
os.close(received)
signal.raise_signal(signal.SIGINT)
"""
    assert run(program).returncode == 130


def test_another_handler_takes_its_place() -> None:
    done = run(
        """
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    time.sleep(0.2)
    print("handled")
"""
    )
    assert (done.returncode, done.stdout) == (0, "handled\n")


def test_other_signals_are_let_through() -> None:
    done = run(
        """
signal.signal(signal.SIGUSR1, lambda *args: print("handled"))
signal.raise_signal(signal.SIGUSR1)
time.sleep(0.2)
"""
    )
    assert (done.returncode, done.stdout) == (0, "handled\n")
