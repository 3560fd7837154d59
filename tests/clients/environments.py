"""Environments of clients, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

from mllama.utils.cache_dir import cache_directory

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
REQUIREMENTS = HERE / "requirements"
_SECONDS = 900


def python_of(client: str) -> Path:
    """The Python of an environment with a client's pinned requirements."""
    requirements = REQUIREMENTS / f"{client}.txt"
    key = requirements.read_bytes() + sys.version.encode()
    name = f"{client}-{hashlib.sha256(key).hexdigest()[:16]}"
    environment = cache_directory("test-clients") / name
    python = environment / "bin" / "python"
    with FileLock(f"{environment}.lock"):
        if not (environment / "complete").exists():
            shutil.rmtree(environment, ignore_errors=True)
            _run(sys.executable, "-m", "venv", environment)
            _run(python, "-m", "pip", "install", "--quiet", "-r", requirements)
            (environment / "complete").touch()
    return python


def checks_of(client: str) -> list[str]:
    """The names of a program's checks."""
    source = (PROGRAMS / f"{client}.py").read_text(encoding="utf-8")
    return [
        line.removeprefix("def ").partition("(")[0]
        for line in source.splitlines()
        if line.startswith("def check_")
    ]


def outcomes(client: str, url: str) -> dict[str, str | None]:
    """Runs a client's program.

    Returns:
        For each check the traceback of its failure, or None.
    """
    program = PROGRAMS / "run_checks.py"
    answer = _run(python_of(client), program, client, url)
    found: dict[str, str | None] = json.loads(answer.splitlines()[-1])
    return found


def _run(*command: Any) -> str:
    """Runs a program outside of the tests' environment and returns its output."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(each) for each in command],
        env=inherited,
        cwd=PROGRAMS,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
