"""Debian's Prometheus, for tests that ask a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ports import free_port

REQUIRED = "MLLAMA_TESTS_NEED_PROMETHEUS"
"""The variable with which a missing Prometheus is a failure; ``.ci/run`` sets it."""


def program(name: str) -> str:
    """Returns the path of ``prometheus`` or ``promtool``, or skips the test."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed (Debian: apt-get install prometheus)"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


class Prometheus:
    """A Prometheus that scrapes a target each second."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[Any]:
        """Returns the series of an expression, now."""
        response = httpx.post(
            f"{self._url}/api/v1/query", data={"query": expression}, timeout=30
        )
        answer = response.json()
        assert answer["status"] == "success", (expression, answer)
        result: list[Any] = answer["data"]["result"]
        return result

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        """Waits until an expression has series."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.query(expression):
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"no series of {expression} in {seconds} s")


@contextmanager
def scraping(target: str, folder: Path) -> Iterator[Prometheus]:
    """Yields a Prometheus that scrapes ``HOST:PORT``, with our alerts."""
    prometheus = program("prometheus")
    rules = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{rules}]\n"
        "scrape_configs:\n"
        "  - job_name: mllama\n"
        f'    static_configs: [{{targets: ["{target}"]}}]\n'
    )
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                prometheus,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)
