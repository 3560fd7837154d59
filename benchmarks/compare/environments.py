"""The pinned alternatives, each in a separate virtual environment under `.bench`.

Those that are compiled here have an environment for each instruction set.  If an
environment can't be created (no wheel, no compiler), the run continues, and its
measurements are replaced by the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.compare.isa import NATIVE, Isa

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
        cmake: cmake's options for a single package that is compiled here, or None.
        missing: Content of files that this package's sources lack, by path.
        wheel: Name of the instruction set that the package's wheel is compiled for,
            if it has one.
        isa: What the package is compiled for.
    """

    name: str
    packages: tuple[str, ...]
    cmake: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    wheel: str | None = None
    isa: Isa = NATIVE

    @property
    def folder(self) -> Path:
        """The folder of the environment."""
        is_native = self.isa.is_native or self.cmake is None
        name = self.name if is_native else f"{self.name}-{self.isa.name}"
        return FOLDER / "environments" / name

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"

    @property
    def is_compiled(self) -> bool:
        """Returns True if the package is compiled here."""
        return self.cmake is not None and self.wheel != self.isa.name

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for the installation."""
        if not self.is_compiled:
            return {}
        arguments = f"-DCMAKE_BUILD_TYPE=Release {self.isa.cmake_arguments}"
        return {
            "CMAKE_ARGS": f"{arguments} {self.cmake}",
            "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
            # pip would take the wheel that it built for another instruction set.
            "PIP_NO_CACHE_DIR": "1",
            **self.isa.compiler_variables,
        }

    @property
    def wanted(self) -> str:
        """Text of the packages; the environment is rebuilt when it changes."""
        return "\n".join([*self.packages, *map(str, sorted(self.variables.items()))])


_IK_LLAMA_CPP = "vendor/ik_llama.cpp"
_BUILD_INFO = """\
include("${CMAKE_CURRENT_SOURCE_DIR}/cmake/build-info.cmake")
configure_file("${CMAKE_CURRENT_SOURCE_DIR}/common/build-info.cpp.in"
               "${CMAKE_CURRENT_SOURCE_DIR}/common/build-info.cpp")
"""

ENVIRONMENTS = {
    each.name: each
    for each in (
        Environment(
            "transformers", ("transformers==5.24.0", "torch==2.13.0", "pillow")
        ),
        Environment(
            "llama_cpp",
            ("llama-cpp-python==0.3.36",),
            "-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF",
        ),
        # Flash attention to KV caches in other formats takes minutes to compile.  One
        # of the libraries has to find the other.
        Environment(
            "ik_llama_cpp",
            ("ik-llama-cpp-python==0.1.5",),
            "-DGGML_IQK_FA_ALL_QUANTS=OFF -DCMAKE_INSTALL_RPATH=$ORIGIN",
            missing={
                f"{_IK_LLAMA_CPP}/common/cmake/build-info-gen-cpp.cmake": _BUILD_INFO
            },
            wheel="avx2",
        ),
        Environment("mistralrs", ("mistralrs==0.9.5",)),
        Environment("plot", ("matplotlib==3.11.2",)),
    )
}


def prepare(name: str, isa: Isa = NATIVE) -> Path:
    """Creates an environment unless it exists, and returns its interpreter.

    Args:
        name: Name of the environment.
        isa: What packages that are compiled here are compiled for.

    Raises:
        EnvironmentFailure: If the environment can't be created.
    """
    environment = replace(ENVIRONMENTS[name], isa=isa)
    mark = environment.folder / "packages.txt"
    if mark.is_file() and mark.read_text() == environment.wanted:
        return environment.python
    shutil.rmtree(environment.folder, ignore_errors=True)
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"installing {', '.join(environment.packages)}", file=sys.stderr, flush=True)
    log = FOLDER / "logs" / f"install-{environment.folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output, tempfile.TemporaryDirectory() as folder:

        def run(*command: str | Path) -> None:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment.variables,
            )
            if done.returncode:
                raise EnvironmentFailure(f"not installed: see {log}")

        run(sys.executable, "-m", "venv", environment.folder)
        pip = (environment.python, "-m", "pip", "--disable-pip-version-check")
        packages: tuple[str | Path, ...] = environment.packages
        if environment.is_compiled and environment.missing:
            run(*pip, "download", *_SOURCES_ALONE, "--dest", folder, *packages)
            packages = (_completed(Path(folder), environment.missing),)
        run(*pip, "install", *packages)
    mark.write_text(environment.wanted)
    return environment.python


_SOURCES_ALONE = ("--no-deps", "--no-binary", ":all:")


def _completed(folder: Path, missing: Mapping[str, str]) -> Path:
    """Unpacks the sources in a folder and adds the files that they lack.

    Returns:
        The unpacked sources.
    """
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    sources = folder / archive.name.removesuffix(".tar.gz")
    for path, content in missing.items():
        target = sources / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    return sources
