"""The alternatives, pinned, each in a virtual environment of its own under `.bench`.

An environment that can't be made here (no wheel, no compiler) doesn't end a run: what
it would have measured says why instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".bench"
"""Everything that a run makes and later ones take again."""


class EnvironmentFailure(Exception):
    """An environment can't be made on this machine; the message is one line."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        name: Of the environment and of its engine.
        packages: What is installed, with versions.
        variables: Of the installation, such as what cmake is told.
    """

    name: str
    packages: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return FOLDER / "environments" / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def wanted(self) -> str:
        """What it is made of; another text means that it must be made anew."""
        return "\n".join([*self.packages, *map(str, sorted(self.variables.items()))])


ENVIRONMENTS = {
    each.name: each
    for each in (
        Environment(
            "transformers", ("transformers==5.24.0", "torch==2.13.0", "pillow")
        ),
        # Compiled for this very processor, as its own users are told to.
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
    """Makes an environment unless it is there; its interpreter.

    Raises:
        EnvironmentFailure: If it can't be made.
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
