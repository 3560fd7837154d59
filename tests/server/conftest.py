"""One ``mllama serve`` with the demo model for all tests of the server."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import trustme

from mllama.server.http_server import TlsFiles
from tests.ports import free_port

START_SECONDS = 1500
"""The first run compiles graphs, and the test machine may be busy."""


class Server:
    """A running server and its log.  ``module`` is the Python module to run."""

    def __init__(self, log: Path, *options: str, module: str = "mllama") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        environment = os.environ | {
            "MAX_SERVE_MEDIA_URL_ALLOWED_HOSTS": '["localhost"]'
        }
        # Tests of the Python API leave this variable set, which disables /metrics.
        environment.pop("MAX_SERVE_DISABLE_TELEMETRY", None)
        command = [sys.executable, "-m", module, "serve", "--devices", "cpu"]
        command += ["--max-batch-size", "4"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), *options],
            stderr=log.open("w"),
            env=environment,
        )

    def wait(self) -> None:
        """Waits until the server answers."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health")
            except urllib.error.URLError:
                time.sleep(0.5)
            else:
                return
        raise AssertionError(self.log.read_text())

    def client(self) -> openai.OpenAI:
        """Returns an OpenAI client that doesn't retry."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def interrupt(self) -> int:
        """Sends Ctrl-C and returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@contextmanager
def running(log: Path, *options: str, module: str = "mllama") -> Iterator[Server]:
    """Yields a server that answers, and stops it on exit."""
    server = Server(log, *options, module=module)
    try:
        server.wait()
        yield server
    finally:
        if server.process.poll() is None:
            assert server.interrupt() == 0


def image_cache(server: Server) -> dict[str, float]:
    """Returns the figures of the image cache."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    pairs = (line.split() for line in lines if line.startswith("mllama_image"))
    return {name.removeprefix("mllama_image_cache_"): float(n) for name, n in pairs}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    # The extra `batch`, without which a server has no batches.
    has_extra = importlib.util.find_spec("python_multipart") is not None
    options = ["--batch-dir", str(folder / "batches")] if has_extra else []
    options.append("--attention")
    with running(folder / "log", *options) as started:
        yield started


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return server.client()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> TlsFiles:
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    file = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(file)
    return TlsFiles(certificate=str(file))
