"""A cluster of this machine that tests share, as each start takes Ray seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

CPUS: Final = 3
END_SECONDS: Final = 60

JOINING: Final = {
    # As the process that has started the cluster has set them.
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""Variables of processes that join a cluster which was started for one machine."""


@dataclass(frozen=True)
class SharedRay:
    """A cluster that runs.

    Attributes:
        address: For ``--address``.
        environment: Variables of processes that join it.
    """

    address: str
    environment: Mapping[str, str]


@contextmanager
def started_ray() -> Iterator[SharedRay]:
    """Runs a cluster within a ``with`` block, and checks that no process is left."""
    # Its sockets have names of bounded length.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as name:
        environment = os.environ | JOINING | {"RAY_TMPDIR": name}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.shared_ray_program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "Ray has not started"
            yield SharedRay(address, environment)
        finally:
            process.stdin.close()
            process.wait(END_SECONDS)
            assert ended(Path(name)) == []


def ended(folder: Path) -> list[psutil.Process]:
    """Waits for the end of the processes of Ray whose files are in a folder.

    Returns:
        Those that are left.
    """
    end = time.monotonic() + END_SECONDS
    while (left := _processes(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _processes(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found
