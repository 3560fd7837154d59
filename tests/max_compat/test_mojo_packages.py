"""Built Mojo packages are kept in the cache, and only intact ones are used."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mllama.max_compat import mojo_packages
from mllama.max_compat.mojo_packages import (
    PACKAGES_DIRECTORY,
    built_mojo_package,
    packaged_name,
)
from mllama.utils.cache_dir import CACHE_VARIABLE

SOURCE = "def answer() -> Int:\n    return 42\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / PACKAGES_DIRECTORY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "__init__.mojo").write_text(SOURCE)
    return folder


class Builder:
    """Stands in for the compiler; writes a file whose content counts the builds."""

    def __init__(self) -> None:
        self.built: list[Path] = []

    def __call__(self, arguments: list[str], **options: Any) -> None:
        target = Path(arguments[3])
        self.built.append(target)
        target.write_bytes(f"package {len(self.built)}".encode())


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Builder]:
    builder = Builder()
    monkeypatch.setattr(mojo_packages, "subprocess_run_mojo", builder)
    yield builder
    built_mojo_package.cache_clear()


def in_another_process(folder: Path) -> Path:
    built_mojo_package.cache_clear()
    return built_mojo_package(folder)


@pytest.mark.compiles
def test_mojo_builds_a_package_that_the_compiler_reads(
    cache: Path, folder: Path, tmp_path: Path
) -> None:
    from mojo.run import subprocess_run_mojo

    package = built_mojo_package(folder)
    assert package.parent.parent == cache
    program = tmp_path / "program.mojo"
    program.write_text(
        f"from {package.stem} import answer\n\ndef main():\n    print(answer())\n"
    )
    done = subprocess_run_mojo(
        ["run", "-I", str(package.parent), str(program)],
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split() == ["42"]


@pytest.mark.compiles
def test_errors_in_the_sources_are_reported(cache: Path, folder: Path) -> None:
    (folder / "__init__.mojo").write_text("def answer() -> Nothing:\n")
    with pytest.raises(Exception, match="Error compiling Mojo"):
        built_mojo_package(folder)


def test_a_package_is_built_once_for_all_processes(
    cache: Path, folder: Path, builder: Builder
) -> None:
    packages = {in_another_process(folder) for _ in range(3)}
    assert len(packages) == len(builder.built) == 1
    (package,) = packages
    assert package.read_bytes() == b"package 1"
    assert packaged_name(package.parent) == "answers"
    assert not list(cache.rglob("*.part"))


def test_packages_that_are_built_at_the_same_time_are_built_once(
    cache: Path, folder: Path, builder: Builder
) -> None:
    # The lock keeps out threads as it keeps out processes.
    with ThreadPoolExecutor(4) as threads:
        packages = set(threads.map(built_mojo_package.__wrapped__, [folder] * 4))
    assert len(packages) == len(builder.built) == 1


@pytest.mark.parametrize("content", [b"", b"package 2", b"package 1 "])
def test_a_damaged_package_is_built_again(
    cache: Path, folder: Path, builder: Builder, content: bytes
) -> None:
    package = in_another_process(folder)
    package.write_bytes(content)
    assert in_another_process(folder) == package
    assert package.read_bytes() == b"package 2"
    assert len(builder.built) == 2


@pytest.mark.parametrize("missing", ["sha256", "mllama_*.mojoc"])
def test_an_unfinished_package_is_built_again(
    cache: Path, folder: Path, builder: Builder, missing: str
) -> None:
    package = in_another_process(folder)
    (file,) = package.parent.glob(missing)
    file.unlink()
    # What a process leaves behind that is killed while it builds.
    (package.parent / "building.part").mkdir()
    (package.parent / "building.part" / package.name).write_bytes(b"half a pack")
    assert in_another_process(folder) == package
    assert len(builder.built) == 2


def test_the_key_covers_sources_version_and_cpu(
    cache: Path, folder: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [in_another_process(folder)]
    (folder / "__init__.mojo").write_text(SOURCE.replace("42", "43"))
    packages.append(in_another_process(folder))
    (folder / "__init__.mojo").rename(folder / "other.mojo")
    packages.append(in_another_process(folder))
    monkeypatch.setattr(mojo_packages, "version", lambda name: "26.8.0")
    packages.append(in_another_process(folder))
    monkeypatch.setattr(mojo_packages, "cpu_features", lambda: ("x86_64", "avx2"))
    packages.append(in_another_process(folder))
    assert len({package.parent for package in packages}) == len(packages)


def test_without_a_writable_cache_max_builds_the_package(
    tmp_path: Path,
    folder: Path,
    builder: Builder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    monkeypatch.setattr(
        mojo_packages, "_build_mojo_source_package", lambda folder: Path("/built")
    )
    assert in_another_process(folder) == Path("/built")
    assert not builder.built


def test_a_failed_build_leaves_nothing_behind(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str], **options: Any) -> None:
        Path(arguments[3]).write_bytes(b"half a pack")
        raise subprocess.CalledProcessError(1, arguments)

    monkeypatch.setattr(mojo_packages, "subprocess_run_mojo", fail)
    monkeypatch.setattr(
        mojo_packages, "_build_mojo_source_package", lambda folder: Path("/built")
    )
    assert in_another_process(folder) == Path("/built")
    built_mojo_package.cache_clear()
    assert not list(cache.rglob("*.mojoc"))
