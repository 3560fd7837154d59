"""Workload h: from nothing to the first answer, stage by stage.

The package is built, and installed as a wheel in an empty virtual environment.  Runs
that count as first have an empty home and empty caches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.compare.environments import FOLDER
from benchmarks.compare.results import Results
from benchmarks.compare.variants import OURS

ROOT = Path(__file__).resolve().parents[2]

IMPORT = "import max.pipelines.lib"
"""What every run of any model on MAX needs; the environment has no torch."""

_HOMES = ("HOME", "XDG_CACHE_HOME", "MLLAMA_CACHE", "MODULAR_HOME")


class FirstRunFailure(Exception):
    """A command of the workload failed; the message is one line."""


def measure_first_run(results: Results, model: Path, rounds: int) -> None:
    """Measures installation, first and later runs, and compilation.

    Args:
        results: Receives the measurements, in seconds.
        model: A GGUF file whose graphs don't ship.
        rounds: How often runs are measured; installation and compilation are measured
            once.
    """
    try:
        _measure(results, model, rounds)
    except FirstRunFailure as error:
        print(f"first run: {error}", file=sys.stderr, flush=True)
        results.fail("first_generate", OURS, str(error))


def _measure(results: Results, model: Path, rounds: int) -> None:
    print("first run: installing the wheel", file=sys.stderr, flush=True)
    environment = FOLDER / "environments" / "wheel"
    python = environment / "bin" / "python"
    results.add("install", OURS, _install(environment))
    # Files that were just written are read from the disk's cache, as after a download.
    _seconds([python, "-c", IMPORT], {})
    for number in range(rounds):
        print(f"first run: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        with _empty_home() as home:
            for name in ("first", "later"):
                for stage, seconds in _generate(python, home).items():
                    results.add(f"{name}_generate{stage}", OURS, seconds)
            results.add("import_max", OURS, _seconds([python, "-c", IMPORT], home))
        with _empty_home() as home:
            results.add(
                "first_demo", OURS, _seconds([python, "-m", "mllama", "demo"], home)
            )
    print("first run: compiling", file=sys.stderr, flush=True)
    with _empty_home() as home, tempfile.TemporaryDirectory() as output:
        command = [python, "-m", "mllama", "compile", "--devices", "cpu"]
        command += ["--model-path", model, "--output", output]
        results.add("compile", OURS, _seconds(command, home))


def _install(environment: Path) -> float:
    """Installs the wheel in an empty environment; returns the seconds that it takes."""
    with tempfile.TemporaryDirectory() as output:
        _seconds([sys.executable, "-m", "build", "--wheel", "-o", output, ROOT], {})
        (wheel,) = Path(output).glob("*.whl")
        start = time.perf_counter()
        _seconds([sys.executable, "-m", "venv", "--clear", environment], {})
        python = environment / "bin" / "python"
        uv = Path(sys.executable).parent / "uv"
        install = (
            [uv, "pip", "install", "--python", python]
            if uv.is_file()
            else [python, "-m", "pip", "install"]
        )
        _seconds([*install, wheel], {})
        return time.perf_counter() - start


def _generate(python: Path, home: dict[str, str]) -> dict[str, float]:
    """Asks about a picture.

    Returns:
        The seconds of the whole command, under an empty name, and of its stages.
    """
    picture = ROOT / "mllama" / "demo_model" / "pictures" / "shapes.png"
    start = time.perf_counter()
    output = _output(
        [
            *(python, "-m", "mllama", "generate", "--devices", "cpu"),
            *("--image", picture, "--prompt", "What is in this picture?"),
            *("--format", "json"),
        ],
        home,
    )
    total = time.perf_counter() - start
    answer = json.loads(output)
    later = (answer["completion_tokens"] - 1) / answer["tokens_per_second"]
    return {
        "": total,
        "_load": answer["load_seconds"],
        "_answer": answer["time_to_first_token_seconds"] + later,
    }


@contextmanager
def _empty_home() -> Iterator[dict[str, str]]:
    """Yields environment variables of an empty home with empty caches."""
    with tempfile.TemporaryDirectory() as home:
        yield {name: f"{home}/{name.lower()}" for name in _HOMES} | {"HOME": home}


def _seconds(command: list[str | Path], variables: dict[str, str]) -> float:
    """Returns the seconds that a command takes."""
    start = time.perf_counter()
    _output(command, variables)
    return time.perf_counter() - start


def _output(command: list[str | Path], variables: dict[str, str]) -> str:
    """Runs a command outside of the repository; returns what it writes to stdout.

    Raises:
        FirstRunFailure: If it fails.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        command,
        cwd=tempfile.gettempdir(),
        env=inherited | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise FirstRunFailure(f"{Path(command[0]).name}: {lines[-1]}")
    return done.stdout
