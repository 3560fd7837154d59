"""Measures the machine's peak performance with `ceilings.c`, compiled on the spot."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import psutil

from benchmarks.compare.environments import FOLDER
from mllama.cli.environment_report import cpu_name

METRICS = ("read_bandwidth", "read_bandwidth_1_thread", "float32_peak", "int8_peak")
"""GB/s, GFLOP/s and Gop/s, with all threads unless the name says otherwise."""

_SOURCES = Path(__file__).parent
_MIB = 1024
"""Size of the memory that is read, far larger than any CPU cache."""


class CompilerFailure(Exception):
    """A C file can't be compiled on this machine; the message is one line."""


def compiled(name: str, *options: str, suffix: str = "") -> Path:
    """Compiles a C file of this folder for this processor, and returns the result.

    Raises:
        CompilerFailure: If there is no compiler, or compilation fails.
    """
    source, target = _SOURCES / f"{name}.c", FOLDER / f"{name}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O3", "-march=native", "-pthread", *options]
    try:
        subprocess.run(
            [*command, str(source), "-o", str(target)],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise CompilerFailure("there is no gcc") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line]
        raise CompilerFailure(
            f"{source.name}: {(lines or ['gcc failed'])[0]}"
        ) from error
    return target


def ceilings(program: Path, threads: int) -> dict[str, float]:
    """Returns one measurement by metric; it takes about a second on an idle machine."""
    done = subprocess.run(
        [str(program), str(threads), str(_MIB)],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(zip(METRICS, map(float, done.stdout.split()), strict=True))


def machine() -> dict[str, str | int | float]:
    """Returns the properties of this machine that results depend on."""
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=True) or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": round(psutil.getloadavg()[0], 2),
    }
