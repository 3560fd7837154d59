"""Graphs for a CPU with fewer instructions, which `mllama compile` makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import compiled_graphs
from benchmarks.compare.compiled_graphs import graphs_for
from benchmarks.compare.isa import ISAS
from benchmarks.compare.process import EngineFailure

AVX2 = ISAS["avx2"]


class Compiler:
    """Notes commands and creates their output."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.variables: Mapping[str, str] = {}
        self.errors = ""

    def __call__(self, command: list[str], *, env: Mapping[str, str], **_: Any) -> Any:
        self.variables = env
        self.commands.append(command)
        Path(command[-1]).mkdir(parents=True)
        fields = {"returncode": int(bool(self.errors)), "stderr": self.errors}
        return type("Done", (), fields)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(compiled_graphs, "FOLDER", tmp_path)
    monkeypatch.setattr(compiled_graphs.subprocess, "run", made)
    return made


def test_graphs_are_compiled_once_for_what_they_depend_on(compiler: Compiler) -> None:
    model = Path("model")
    first = graphs_for(model, {"max_length": 64}, AVX2)
    assert first.is_dir()
    assert graphs_for(model, {"max_length": 128}, AVX2) == first
    int8 = graphs_for(model, {"vision_encoding": "int8"}, AVX2)
    other = graphs_for(Path("other"), {}, AVX2)
    profiled = graphs_for(model, {}, AVX2, {"MODULAR_ENABLE_PROFILING": "on"})
    assert compiler.variables["MODULAR_ENABLE_PROFILING"] == "on"
    assert len({first, int8, other, profiled}) == len(compiler.commands) == 4
    command = " ".join(compiler.commands[1])
    assert "--target cpu:x86-64-v3" in command
    assert "--vision-encoding int8" in command
    assert "--vision-encoding" not in compiler.commands[0]


def test_a_failed_compilation_is_reported_and_repeated(compiler: Compiler) -> None:
    compiler.errors = "mllama: compiling\nError: no such option\n"
    with pytest.raises(EngineFailure, match="avx2: Error: no such option"):
        graphs_for(Path("model"), {}, AVX2)
    compiler.errors = ""
    assert graphs_for(Path("model"), {}, AVX2).is_dir()


def test_changed_sources_need_other_graphs(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = graphs_for(Path("model"), {}, AVX2)
    monkeypatch.setattr(compiled_graphs, "versions", lambda: {"sources": "other"})
    assert graphs_for(Path("model"), {}, AVX2) != before
