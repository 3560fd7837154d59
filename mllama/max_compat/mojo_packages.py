"""Mojo packages of custom ops, in the form that MAX's compiler reads."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

from filelock import FileLock

# MAX calls the first function for a folder of sources, once for each graph and
# subgraph, in every process.
from mojo.paths import _build_mojo_source_package
from mojo.run import subprocess_run_mojo

from mllama.utils.atomic_file import write_small_file
from mllama.utils.cache_dir import cache_directory
from mllama.utils.cpu import cpu_features

PACKAGES_DIRECTORY: Final = "mojo"
"""The subdirectory of the cache for built packages."""

_DIGEST_FILE = "sha256"
"""The file with the package's digest.  It is written last."""


@functools.cache
def built_mojo_package(folder: Path) -> Path:
    """Returns the binary package of a folder of Mojo sources.

    Building takes seconds, so the package is kept in the cache, under a hash of all
    that it depends on.  Processes that need it at the same time build it once.  A
    package that is damaged is built again, and without a writable cache MAX builds it
    in the system's directory for temporary files.

    Args:
        folder: The package's sources, which must not change while the process runs.
    """
    try:
        key = _package_key(folder)
        directory = cache_directory(f"{PACKAGES_DIRECTORY}/{key}")
        # The compiler requires that a file keeps the name under which it was built.
        package = directory / f"mllama_{folder.name}_{key}.mojoc"
        with FileLock(directory / "building.lock"):
            if not _is_intact(package):
                _build(folder, package)
        return package
    # NotImplementedError: the file system has no locks.
    except (OSError, NotImplementedError, subprocess.CalledProcessError):
        # Errors in the sources are reported by this function.
        return _build_mojo_source_package(folder)


def packaged_name(directory: Path) -> str:
    """Returns the name of the package in a directory of the cache; may be empty."""
    for package in directory.glob("mllama_*.mojoc"):
        return package.stem.removeprefix("mllama_").rpartition("_")[0]
    return ""


def _build(folder: Path, package: Path) -> None:
    """Builds a package, and writes its digest last; the caller has the lock.

    Raises:
        OSError: If the cache can't be written.
        subprocess.CalledProcessError: If the sources can't be built.
    """
    unfinished = package.parent / "building.part"
    # A process that was killed while it built the package leaves this behind.
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        built = unfinished / package.name
        subprocess_run_mojo(
            ["precompile", str(folder), "-o", str(built)],
            capture_output=True,
            check=True,
        )
        digest = _digest(built)
        built.replace(package)
        write_small_file(package.parent / _DIGEST_FILE, digest.encode())
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(unfinished)


def _is_intact(package: Path) -> bool:
    """Returns True if a package was written completely and not changed since."""
    try:
        recorded = (package.parent / _DIGEST_FILE).read_bytes()
        return recorded == _digest(package).encode()
    except OSError:
        return False


def _package_key(folder: Path) -> str:
    """Returns a hash of a package's sources, MAX's version and the CPU."""
    key = hashlib.sha256(f"{version('max')}\0{cpu_features()}\0".encode())
    for source in sorted(folder.rglob("*.mojo")):
        content = source.read_bytes()
        name = source.relative_to(folder).as_posix()
        key.update(f"{name}\0{len(content)}\0".encode())
        key.update(content)
    return key.hexdigest()[:16]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
