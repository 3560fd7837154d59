"""A stand-in hub that holds the demo model, and a machine with an empty cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mllama.demo_model import MODEL_PATH
from tests.hub.stand_in import StandInHub, stand_in_hub

NAME = "meta-llama/Llama-3.2-11B-Vision-Instruct"

DEMO = {file.name: file.read_bytes() for file in MODEL_PATH.iterdir() if file.is_file()}

UNNEEDED = {
    "original/consolidated.00.pth": b"a pickle",
    "original/tokenizer.model": b"tokens",
    "pytorch_model.bin": b"a pickle",
    "README.md": b"# A model",
    "LICENSE.txt": b"A license",
    "picture.png": b"a picture",
}


@dataclass
class DownloadResult:
    """The outcome of a download in a child process."""

    stderr: str
    model: str = ""
    weights: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    kind: str = ""


class Machine:
    """A user's machine: its environment and its caches."""

    def __init__(self, hub: StandInHub, home: Path) -> None:
        self.hub = hub
        self.home = home
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        } | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "MLLAMA_CACHE": str(home / "mllama"),
            "NO_PROXY": "127.0.0.1,localhost",
        }

    @property
    def cache(self) -> Path:
        """The directory of the repository in the hub's cache."""
        return self.home / "hub" / f"models--{NAME.replace('/', '--')}"

    def download(self, model: str = NAME, **arguments: Any) -> DownloadResult:
        """Downloads a model; stderr may hold this package's lines only."""
        done = subprocess.run(
            self.command(model, **arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        for line in done.stderr.splitlines():
            assert line.startswith("mllama: "), done.stderr
        result = DownloadResult(done.stderr, **json.loads(done.stdout))
        assert "\n" not in result.error
        return result

    def command(self, model: str = NAME, **arguments: Any) -> list[str]:
        request = json.dumps({"model": model, **arguments})
        return [sys.executable, "-m", "tests.hub.child", request]

    def mllama(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mllama", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def partial_files(self) -> list[Path]:
        return list(self.home.rglob("*.incomplete"))


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with stand_in_hub() as running:
        running.add(NAME, DEMO | UNNEEDED)
        yield running


@pytest.fixture
def machine(hub: StandInHub, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path / "home")


def assert_no_weights_downloaded(hub: StandInHub) -> None:
    """Checks that the store sent no more than headers."""
    assert sum(request.sent for request in hub.requests_for("/store/")) < 1_000_000
