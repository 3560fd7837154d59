"""Environments of clients, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from mllama.utils.cache_dir import cache_directory

REQUIREMENTS = Path(__file__).parent / "requirements"
_SECONDS = 900


def python_environment(client: str) -> Path:
    """Returns the Python of an environment with a client's pinned requirements."""
    requirements = REQUIREMENTS / f"{client}.txt"

    def make(environment: Path) -> None:
        python = environment / "bin" / "python"
        uv = Path(sys.executable).with_name("uv")
        if uv.exists():
            run(sys.executable, "-m", "venv", "--without-pip", environment)
            run(uv, "pip", "install", "--python", python, "-r", requirements)
        else:
            run(sys.executable, "-m", "venv", environment)
            run(python, "-m", "pip", "install", "--quiet", "-r", requirements)

    return _environment(client, requirements, sys.version, make) / "bin" / "python"


def node_environment(client: str) -> Path:
    """Returns a directory with a client's pinned packages for Node.

    Raises:
        FileNotFoundError: If Node or npm is missing.
    """
    package = REQUIREMENTS / f"{client}.json"
    version = run("node", "--version")

    def make(environment: Path) -> None:
        environment.mkdir()
        shutil.copy(package, environment / "package.json")
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund")
        run("npm", "install", *quiet, cwd=environment)

    return _environment(client, package, version, make)


def run(*command: Any, cwd: Path | None = None) -> str:
    """Runs a program outside of the tests' environment and returns its output."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(each) for each in command],
        env=inherited,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _environment(
    client: str, requirements: Path, version: str, make: Callable[[Path], None]
) -> Path:
    """Returns a client's environment in the cache, which ``make`` fills if need be."""
    key = hashlib.sha256(requirements.read_bytes() + version.encode()).hexdigest()
    environment = cache_directory("test-clients") / f"{client}-{key[:16]}"
    with FileLock(f"{environment}.lock"):
        if not (environment / "complete").exists():
            shutil.rmtree(environment, ignore_errors=True)
            make(environment)
            (environment / "complete").touch()
    return environment
