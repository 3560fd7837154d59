"""Waits for the answers that a batch in another process writes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def lines_of(output: Path) -> int:
    """Returns the number of whole lines."""
    return output.read_bytes().count(b"\n") if output.exists() else 0


def wait_for_lines(
    process: subprocess.Popen[str], output: Path, count: int, seconds: float
) -> None:
    """Waits until a running batch has written so many lines."""
    end = time.monotonic() + seconds
    while lines_of(output) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
