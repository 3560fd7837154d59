"""A stand-in hub with the demo model, and a cache of its own."""

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
class Fetch:
    """What a child made of a request."""

    stderr: str
    model: str = ""
    weights: list[str] = field(default_factory=list)
    error: str = ""
    kind: str = ""


class Machine:
    """A user's machine: its environment, and what it fetches."""

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
        """Where the repository is kept."""
        return self.home / "hub" / f"models--{NAME.replace('/', '--')}"

    def fetch(self, model: str = NAME, **arguments: Any) -> Fetch:
        """What comes of it, good or bad, and nothing but lines of ours on stderr."""
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
        fetch = Fetch(done.stderr, **json.loads(done.stdout))
        assert "\n" not in fetch.error
        return fetch

    def command(self, model: str = NAME, **arguments: Any) -> list[str]:
        asked = json.dumps({"model": model, **arguments})
        return [sys.executable, "-m", "tests.hub.child", asked]

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
