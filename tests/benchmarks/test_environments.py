"""Environments of the alternatives, and what their libraries are compiled for."""

from __future__ import annotations

import io
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import environments, process
from benchmarks.compare.environments import (
    ENVIRONMENTS,
    EnvironmentFailure,
    prepare,
)
from benchmarks.compare.isa import ISAS, NATIVE, form_of

AVX2 = ISAS["avx2"]


@pytest.mark.parametrize("name", ["llama_cpp", "ik_llama_cpp"])
def test_a_compiled_engine_has_an_environment_for_each_instruction_set(
    name: str,
) -> None:
    native, avx2 = (replace(ENVIRONMENTS[name], isa=isa) for isa in (NATIVE, AVX2))
    assert native.folder.name == name
    assert avx2.folder.name == f"{name}-avx2"
    assert native.wanted != avx2.wanted
    assert "-DGGML_NATIVE=ON" in native.variables["CMAKE_ARGS"]
    assert "CFLAGS" not in native.variables
    # A wheel that pip built before would be for another instruction set.
    assert native.variables["PIP_NO_CACHE_DIR"] == "1"


def test_without_a_wheel_the_compiler_is_told_the_instruction_set() -> None:
    variables = replace(ENVIRONMENTS["llama_cpp"], isa=AVX2).variables
    assert "-DGGML_NATIVE=OFF" in variables["CMAKE_ARGS"]
    assert variables["CFLAGS"] == variables["CXXFLAGS"] == "-march=x86-64-v3"
    assert not replace(ENVIRONMENTS["ik_llama_cpp"], isa=AVX2).is_compiled


def test_an_engine_that_is_not_compiled_has_one_environment() -> None:
    folders = {
        replace(ENVIRONMENTS["transformers"], isa=i).folder for i in ISAS.values()
    }
    assert len(folders) == 1


@pytest.mark.parametrize(
    ("kernels", "form"),
    [
        ("custom kernels (AVX-512)", "AVX-512"),
        ("custom kernels (AVX2)", "AVX2"),
        ("MAX's kernels, since MLLAMA_KERNELS is max",) * 2,
    ],
)
def test_the_form_is_the_name_of_the_kernels(kernels: str, form: str) -> None:
    assert form_of(kernels) == form


class Pip:
    """Notes commands, and writes the sources that `pip download` would fetch."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.has_added = False
        self.code = 0

    def __call__(self, command: Any, **_: Any) -> Any:
        words = list(map(str, command))
        self.commands.append(words)
        if "download" in words:
            folder = Path(words[words.index("--dest") + 1])
            content = b"project()\n"
            with tarfile.open(folder / "engine-1.0.tar.gz", "w:gz") as archive:
                member = tarfile.TarInfo("engine-1.0/CMakeLists.txt")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        elif "install" in words:
            added = Path(words[-1]) / "vendor" / "info.cmake"
            self.has_added = added.is_file() and added.read_text() == "info()"
        elif "venv" in words:
            Path(words[-1]).mkdir(parents=True)
        return type("Done", (), {"returncode": self.code})


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    engine = environments.Environment(
        "engine", ("engine==1.0",), "-DX=1", {"vendor/info.cmake": "info()"}, "avx2"
    )
    made = Pip()
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setitem(ENVIRONMENTS, "engine", engine)
    monkeypatch.setattr(environments.subprocess, "run", made)
    return made


def test_files_that_sources_lack_are_added_before_compiling(pip: Pip) -> None:
    prepare("engine")
    assert pip.has_added
    assert pip.commands[1][-1] == "engine==1.0"
    count = len(pip.commands)
    prepare("engine")
    assert len(pip.commands) == count


def test_a_wheel_of_the_right_instruction_set_is_installed(pip: Pip) -> None:
    prepare("engine", AVX2)
    assert [command[-1] for command in pip.commands[1:]] == ["engine==1.0"]
    assert not any("download" in command for command in pip.commands)


def test_a_failed_installation_is_not_kept(pip: Pip) -> None:
    pip.code = 1
    with pytest.raises(EnvironmentFailure, match="not installed"):
        prepare("engine")
    pip.code = 0
    prepare("engine")
    assert pip.has_added


@pytest.fixture
def ggml(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(process._SCRIPTS))
    monkeypatch.delitem(sys.modules, "ggml", raising=False)
    import ggml

    return ggml


SYSTEM = "AVX = 1 | AVX_VNNI = 0 | AVX2 = 1 | AVX512 = 1 | FMA = 1 | F16C = 1 | "


def test_libraries_for_other_instructions_are_refused(ggml: Any) -> None:
    features = "sse avx avx2 fma f16c avx512f"
    ggml.check_build(SYSTEM, "", features)
    ggml.check_build(SYSTEM.replace("AVX512 = 1", "AVX512 = 0"), "AVX512", features)
    with pytest.raises(RuntimeError, match=r"with AVX512$"):
        ggml.check_build(SYSTEM, "AVX512,AVX_VNNI", features)
    with pytest.raises(RuntimeError, match=r"without FMA$"):
        ggml.check_build(SYSTEM.replace("FMA = 1", "FMA = 0"), "", features)
    ggml.check_build("AVX2 = 0", "", "sse")


def test_a_prompt_is_decoded_at_once_and_its_answer_token_by_token(ggml: Any) -> None:
    decoded: list[list[int]] = []

    def decode(tokens: list[int]) -> int:
        decoded.append(list(tokens))
        return len(decoded)

    answer = ggml.timed_answer(5, 3, decode)
    assert [len(tokens) for tokens in decoded] == [5, 1, 1]
    assert decoded[1:] == [[1], [2]]
    assert answer["prompt_tokens"] == 5
    assert answer["per_token"] > 0
    assert ggml.timed_answer(5, 1, decode)["per_token"] is None
