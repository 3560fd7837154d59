"""Starts of a server from saved graphs, and its prespawned worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mllama.compilation.store import CompiledStore
from tests.processes import children
from tests.server.conftest import Server, running


def ask(server: Server) -> str:
    answer = server.client().chat.completions.create(
        model="mllama-demo",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=4,
    )
    return answer.choices[0].message.content or ""


def test_a_server_starts_from_the_graphs_that_another_one_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved"
    options = ["--save-to-serialized-model-path", str(saved)]
    with running(tmp_path / "first.log", *options) as server:
        expected = ask(server)
    manifest, _ = CompiledStore.open_verified(saved)
    assert manifest.devices == ("cpu",)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))
    options = ["--serialized-model-path", str(saved)]
    with running(tmp_path / "second.log", *options) as server:
        assert ask(server) == expected
    assert not (tmp_path / "home" / ".cache" / "modular" / ".max_cache").exists()


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_the_prespawned_worker_ends_with_its_server(kill: signal.Signals) -> None:
    command = [sys.executable, "-m", "mllama", "serve", "--devices", "cpu"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
    deadline = time.monotonic() + 300
    while not (workers := children(server.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers
    server.send_signal(kill)
    _, stderr = server.communicate(timeout=300)
    assert b"Traceback" not in stderr
    _, running_still = psutil.wait_procs(workers, max(0.0, deadline - time.monotonic()))
    assert not running_still


def test_a_refused_start_prints_only_its_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mllama", "serve", "--max-length", "0"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
