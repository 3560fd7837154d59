"""Servers that benchmarks start, ask and end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

START_SECONDS: Final = 600
"""When a server must have started, graphs compiled."""

_END_SECONDS: Final = 120


@dataclass(frozen=True)
class RunningServer:
    """A server that runs.

    Attributes:
        url: Its address.
        process: Its process.
    """

    url: str
    process: subprocess.Popen[bytes]

    def metric(self, name: str) -> float:
        """Returns the value of a metric.

        Raises:
            KeyError: If there is none of the name.
        """
        page = httpx.get(f"{self.url}/metrics", timeout=60).text
        for line in page.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise KeyError(name)


@contextlib.contextmanager
def running_server(*command: str, module: str = "mllama") -> Iterator[RunningServer]:
    """Yields a server that answers, and ends it on exit.

    Args:
        command: Arguments of the program, without the port.
        module: The program.

    Raises:
        SystemExit: If it doesn't start; the text is its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # Ray's sockets must have short paths.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *command, "--port", str(port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"RAY_TMPDIR": folder},
            )
        try:
            _wait(url, process, log)
            yield RunningServer(url, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_END_SECONDS)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"a server does not start:\n{log.read_text()}")
        time.sleep(0.2)
