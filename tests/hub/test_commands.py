"""The commands with a repository of the hub, as a user runs them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from mllama.demo_model import MODEL_PATH
from tests.hub.conftest import DEMO, NAME, Machine
from tests.hub.stand_in import StandInHub


def refused(done: subprocess.CompletedProcess[str], complaint: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if "mllama: " not in line]
    (line,) = [line for line in errors if " INFO: " not in line]
    assert line.startswith("error: ")
    assert complaint in line


def test_quantize_accepts_a_repository(machine: Machine, tmp_path: Path) -> None:
    done = machine.mllama("quantize", NAME, str(tmp_path / "hub.gguf"))
    assert done.returncode == 0, done.stderr
    assert f"mllama: downloading {NAME}" in done.stderr
    local = machine.mllama("quantize", str(MODEL_PATH), str(tmp_path / "local.gguf"))
    assert local.returncode == 0, local.stderr
    hub_bytes = (tmp_path / "hub.gguf").read_bytes()
    assert hub_bytes == (tmp_path / "local.gguf").read_bytes()


def test_quantize_announces_an_adapter_beside_a_model(
    hub: StandInHub, machine: Machine, tmp_path: Path
) -> None:
    hub.add(NAME, DEMO | {"adapter_config.json": b"{}"})
    done = machine.mllama("quantize", NAME, str(tmp_path / "hub.gguf"))
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "LoRA" in line]
    assert line.startswith(f"mllama: {NAME} also has a LoRA adapter")


def test_a_terminal_shows_a_progress_bar(machine: Machine, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
    command = [sys.executable, "-m", "mllama", "quantize", NAME, f"{tmp_path}/x.gguf"]
    with subprocess.Popen(command, env=machine.environment, stderr=terminal) as process:
        os.close(terminal)
        seen = b""
        # A terminal that was hung up is an error to its reader.
        with contextlib.suppress(OSError):
            while part := os.read(screen, 4096):
                seen += part
        os.close(screen)
    assert process.returncode == 0
    assert f"mllama: {NAME}: 100%".encode() in seen
    assert b"18.5M/18.5M" in seen


GENERATE = ["generate", "--prompt", "x", "--devices", "cpu", "--model-path"]
SERVE = ["serve", "--devices", "cpu", "--model-path"]


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["quantize", NAME, "x.gguf"], "is gated"),
        ([*GENERATE, NAME], "is gated"),
        (
            [*SERVE, NAME, "--huggingface-model-revision", "v9"],
            "has no revision 'v9'",
        ),
    ],
)
def test_a_refusal_is_one_line_and_leaves_no_file(
    hub: StandInHub, machine: Machine, command: list[str], complaint: str
) -> None:
    hub.repositories[NAME].gated = True
    refused(machine.mllama(*command), complaint)
    assert not Path("x.gguf").exists()
    assert not machine.partial_files()


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (GENERATE, "--quantization-encoding", "gptq"),
        (SERVE, "--max-length", "999999999"),
    ],
)
def test_unservable_options_are_refused_before_the_weights(
    hub: StandInHub, machine: Machine, command: list[str], option: str, value: str
) -> None:
    refused(machine.mllama(*command, NAME, option, value), value)
    assert hub.requests_for("config.json")
    assert not hub.requests_for("/store/")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (GENERATE, ["--huggingface-model-revision", "main"]),
        (SERVE, ["--force-download"]),
    ],
)
def test_options_of_the_hub_are_refused_for_a_directory(
    machine: Machine, command: list[str], option: list[str]
) -> None:
    done = machine.mllama(*command, str(MODEL_PATH), *option)
    refused(done, "is on this machine")


@pytest.mark.compiles
def test_generate_reads_the_cache_and_max_sends_no_request(
    hub: StandInHub, machine: Machine, tmp_path: Path
) -> None:
    """This package downloads the repository once; later runs read the cache."""
    machine.download()
    hub.requests.clear()
    picture = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(picture).ellipse((40, 40, 140, 140), fill="red")
    picture.save(tmp_path / "red.png")
    question = ["generate", "--devices", "cpu", "--image", str(tmp_path / "red.png")]
    question += ["--prompt", "What is in the picture?", "--max-new-tokens", "24"]
    answer = machine.mllama(*question, "--model-path", NAME)
    assert answer.returncode == 0, answer.stderr
    assert [request.path for request in hub.requests] == [
        f"/api/models/{NAME}/revision/main?blobs=true"
    ]
    local = machine.mllama(*question, "--model-path", str(MODEL_PATH))
    assert answer.stdout == local.stdout
    assert answer.stdout.strip()
