"""A process that ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has it")


def run_with_parent(parent: int) -> subprocess.CompletedProcess[str]:
    code = (
        "from mllama.utils.child_processes import end_with_parent\n"
        f"end_with_parent({parent})\n"
        "print('goes on')"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600
    )


def test_a_process_goes_on_while_its_parent_does() -> None:
    done = run_with_parent(os.getpid())
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_a_process_whose_parent_has_died_before_ends_at_once() -> None:
    # Whoever adopts it has another id.
    done = run_with_parent(os.getppid())
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
