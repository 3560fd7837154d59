"""Graphs are compiled in the background once, and listed when all are complete."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from filelock import FileLock

from mllama.compilation.background import BackgroundCompilation
from mllama.compilation.store import CompiledStore, GraphKey
from tests.compilation.test_manifest import MANIFEST

KEYS = [GraphKey.of("vision", "a"), GraphKey.of("text", "b")]


@dataclass(frozen=True)
class Task:
    """Adds a graph, and notes that it did."""

    key: GraphKey
    directory: Path
    runs: list[str]

    def run(self) -> None:
        self.runs.append(self.key.name)
        CompiledStore(self.directory).add(
            self.key, lambda part: part.write_text(self.key.name) and None
        )


@pytest.fixture
def runs() -> list[str]:
    return []


@pytest.fixture
def compilation(tmp_path: Path, runs: list[str]) -> BackgroundCompilation:
    tasks = {key: Task(key, tmp_path / "graphs", runs) for key in KEYS}
    return BackgroundCompilation(tasks, MANIFEST, tmp_path / "graphs")


def test_the_graphs_are_listed_once_all_are_compiled(
    compilation: BackgroundCompilation, runs: list[str]
) -> None:
    compilation.run()
    assert runs == ["vision", "text"]
    manifest, store = CompiledStore.open_verified(compilation.directory)
    assert manifest == MANIFEST
    assert all(store.find(key) for key in KEYS)


def test_an_interrupted_compilation_goes_on_where_it_ended(
    compilation: BackgroundCompilation, runs: list[str]
) -> None:
    first = {KEYS[0]: compilation.tasks[KEYS[0]]}
    first[KEYS[0]].run()
    assert not CompiledStore.open_or_create(compilation.directory).is_used
    compilation.run()
    assert runs == ["vision", "text"]


def test_graphs_that_the_cache_has_stay_listed(
    compilation: BackgroundCompilation,
) -> None:
    other = GraphKey.of("sampler", "c")
    store = CompiledStore(compilation.directory)
    store.add(other, lambda part: part.write_text("sampler") and None)
    store.write_manifest(MANIFEST)
    compilation.run()
    _, store = CompiledStore.open_verified(compilation.directory)
    assert all(store.find(key) for key in (*KEYS, other))


def test_two_servers_do_not_compile_the_same(
    compilation: BackgroundCompilation, runs: list[str]
) -> None:
    compilation.directory.mkdir()
    with FileLock(compilation.directory / "compiling.lock"):
        compilation.run()
    assert runs == []
    compilation.run()
    assert runs == ["vision", "text"]


def test_the_manifest_is_that_of_this_cpu(tmp_path: Path) -> None:
    here = replace(MANIFEST, kernels="avx512")
    BackgroundCompilation({}, here, tmp_path).run()
    assert CompiledStore.open_verified(tmp_path)[0] == here
