"""The systemd unit is sound, closed, and runs where systemd does."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mllama.launch.defaults import DEFAULT_SHUTDOWN_TIMEOUT
from tests.deploy.files import DEPLOY, ROOT, options_of, unknown_options
from tests.ports import free_port

UNIT = DEPLOY / "systemd" / "mllama.service"

NOT_HERE = frozenset(
    # Those of the installed program, and of a service that starts again.
    {"ExecStart", "EnvironmentFile", "Restart", "RestartSec", "WorkingDirectory"}
    # A dynamic user can't read a clone in somebody's home, nor write a cache there.
    | {"DynamicUser", "ProtectHome", "Environment", "StateDirectory", "CacheDirectory"}
)

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def settings() -> list[tuple[str, str]]:
    """Returns the settings of the unit's service."""
    service = UNIT.read_text().split("[Service]")[1].split("[Install]")[0]
    lines = [line for line in service.splitlines() if line and line[0] != "#"]
    return [(name, value) for name, _, value in (each.partition("=") for each in lines)]


def systemd_runs() -> bool:
    if shutil.which("systemd-run") is None or os.geteuid() != 0:
        return False
    state = subprocess.run(
        ["systemctl", "is-system-running"], capture_output=True, text=True, timeout=30
    )
    return state.stdout.strip() in ("running", "degraded")


def test_the_server_is_started_with_options_that_it_has(tmp_path: Path) -> None:
    command = dict(settings())["ExecStart"].split()
    assert command[1] == "serve"
    assert unknown_options(command) == []
    assert options_of(DEPLOY / "systemd" / "serve.yaml", tmp_path)


def test_systemd_waits_for_the_requests_in_progress() -> None:
    assert (
        int(dict(settings())["TimeoutStopSec"].rstrip("s")) > DEFAULT_SHUTDOWN_TIMEOUT
    )


@needs_analyze
def test_the_unit_is_sound(tmp_path: Path) -> None:
    program = tmp_path / "mllama"
    program.touch(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/mllama/bin/mllama", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
def test_the_unit_is_closed() -> None:
    """systemd rates exposure from 0 to 10; a unit without settings has 9.6."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", UNIT],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@contextmanager
def running_unit(port: int) -> Iterator[str]:
    """Runs this clone's server under the unit's settings; yields the unit's name."""
    name = f"mllama-test-{os.getpid()}"
    owner = pwd.getpwuid(ROOT.stat().st_uid).pw_name
    properties = [
        f"{name}={value}" for name, value in settings() if name not in NOT_HERE
    ]
    properties += [f"User={owner}", "ProtectHome=read-only", f"WorkingDirectory={ROOT}"]
    properties += [
        "CacheDirectory=" + name,
        f"Environment=MLLAMA_CACHE=/var/cache/{name}",
    ]
    command = ["systemd-run", "--quiet", f"--unit={name}"]
    command += [part for each in properties for part in ("-p", each)]
    command += [sys.executable, "-m", "mllama", "serve", f"--port={port}"]
    command += ["--no-background-compilation"]
    subprocess.run(command, check=True, timeout=60)
    try:
        yield name
    finally:
        subprocess.run(["systemctl", "stop", name], timeout=120)
        subprocess.run(["systemctl", "reset-failed", name], timeout=30)
        shutil.rmtree(f"/var/cache/{name}", ignore_errors=True)


def wait_until_ready(url: str) -> None:
    end = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        except urllib.error.URLError:
            assert time.monotonic() < end, "the unit doesn't answer"
            time.sleep(0.5)


@pytest.mark.compiles
@pytest.mark.skipif(
    not systemd_runs(), reason="systemd does not run here, or not for us"
)
def test_the_server_answers_under_the_units_settings() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    body = {"model": "mllama-demo", "prompt": "Hello", "max_tokens": 3}
    with running_unit(port) as name:
        wait_until_ready(url)
        request = urllib.request.Request(
            f"{url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] > 0
        stopped = time.monotonic()
        subprocess.run(["systemctl", "stop", name], check=True, timeout=120)
        assert time.monotonic() - stopped < 30
