"""The products of int8 use the instructions of each kind of CPU, and no others.

They are compiled for CPUs that this machine needn't have.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mojo.run import subprocess_run_mojo

from mllama.compilation.host import CPU_TARGETS
from mllama.kernels import dispatch
from mllama.kernels.dispatch import mojo_package

pytestmark = pytest.mark.compiles

_PROGRAM = """
from gguf_matmul.matmul import Activations, Matrix, multiply_group
from gguf_matmul.q4_0 import Q4_0
from gguf_matmul.q4_k import Q4_K
from gguf_matmul.q6_k import Q6_K
from gguf_matmul.simd import Simd
from int8_matmul.matmul import Matrix as Int8Matrix, Output, int8_matmul
from int8_matmul.simd import FloatPointer, Simd as Int8Simd


@no_inline
def multiply_gguf(activations: Activations, matrix: Matrix):
    comptime simd = Simd({width}, {has_vnni})
    multiply_group[Q4_0, simd](activations, matrix, 0, 0)
    multiply_group[Q4_K, simd](activations, matrix, 0, 0)
    multiply_group[Q6_K, simd](activations, matrix, 0, 0)


@export
def run(
    mut activations: Activations,
    mut matrix: Matrix,
    mut int8_matrix: Int8Matrix,
    mut output: Output,
    mut x: FloatPointer,
) abi("C"):
    multiply_gguf(activations, matrix)
    int8_matmul[Int8Simd({width}, {has_vnni}), False](x, 500, int8_matrix, output)
"""

_EVEX = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]")
"""Registers that only AVX-512 has."""


def assembly(tmp_path: Path, target: str) -> list[str]:
    """Compiles the products for a target; returns the lines of its assembly code."""
    program, output = tmp_path / "program.mojo", tmp_path / "program.s"
    program.write_text(
        _PROGRAM.format(width=dispatch.simd_width(), has_vnni=str(dispatch.has_vnni()))
    )
    folder = mojo_package("gguf_matmul").parent
    command = ["build", "-I", str(folder), "--emit", "asm", "--target-cpu", target]
    subprocess_run_mojo(
        [*command, str(program), "-o", str(output)], capture_output=True, check=True
    )
    return output.read_text().splitlines()


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_products_use_the_instructions_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: CPU_TARGETS[target])
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    lines = assembly(tmp_path, target)
    vnni = [line for line in lines if "vpdpbusd" in line]
    kernels = dispatch.chosen_kernels()
    if kernels == dispatch.AVX512:
        assert vnni
        assert all("%zmm" in line for line in vnni)
        return
    assert not [line for line in lines if _EVEX.search(line)]
    if kernels == dispatch.AVXVNNI:
        assert len(vnni) > 100
        assert all("{vex}" in line and "%ymm" in line for line in vnni)
    else:
        assert kernels == dispatch.AVX2
        assert not vnni
        assert any("vpmaddubsw" in line for line in lines)


def test_the_targets_cover_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    forms = set()
    for features in CPU_TARGETS.values():
        monkeypatch.setattr(dispatch, "cpu_features", lambda chosen=features: chosen)
        forms.add(dispatch.chosen_kernels())
    assert forms == {dispatch.AVX2, dispatch.AVXVNNI, dispatch.AVX512}
