"""The pinned alternatives, each in a separate virtual environment under `.bench`.

If an environment can't be created (no wheel, no compiler), the run continues, and its
measurements are replaced by the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".bench"
"""The files that a run creates and later runs reuse."""


class EnvironmentFailure(Exception):
    """An environment can't be created on this machine; the message is one line."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        name: Name of the environment and of its engine.
        packages: Packages to install, with versions.
        variables: Environment variables for the installation, such as cmake's options.
    """

    name: str
    packages: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of the environment."""
        return FOLDER / "environments" / self.name

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"

    @property
    def wanted(self) -> str:
        """Text of the packages; the environment is rebuilt when it changes."""
        return "\n".join([*self.packages, *map(str, sorted(self.variables.items()))])


ENVIRONMENTS = {
    each.name: each
    for each in (
        Environment(
            "transformers", ("transformers==5.24.0", "torch==2.13.0", "pillow")
        ),
        # Compiled for this processor, as its documentation recommends.
        Environment(
            "llama_cpp",
            ("llama-cpp-python==0.3.36",),
            {
                "CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON "
                "-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF",
                "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
            },
        ),
        Environment("mistralrs", ("mistralrs==0.9.5",)),
        Environment("plot", ("matplotlib==3.11.2",)),
    )
}


def prepare(name: str) -> Path:
    """Creates an environment unless it exists, and returns its interpreter.

    Raises:
        EnvironmentFailure: If the environment can't be created.
    """
    environment = ENVIRONMENTS[name]
    mark = environment.folder / "packages.txt"
    if mark.is_file() and mark.read_text() == environment.wanted:
        return environment.python
    shutil.rmtree(environment.folder, ignore_errors=True)
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"installing {', '.join(environment.packages)}", file=sys.stderr, flush=True)
    log = FOLDER / "logs" / f"install-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        for command in (
            [sys.executable, "-m", "venv", str(environment.folder)],
            [
                *(str(environment.python), "-m", "pip", "install"),
                *("--disable-pip-version-check", *environment.packages),
            ],
        ):
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment.variables,
            )
            if done.returncode:
                raise EnvironmentFailure(f"not installed: see {log}")
    mark.write_text(environment.wanted)
    return environment.python
