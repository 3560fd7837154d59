"""Instruction sets of the CPU are read from the system."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.utils import cpu


def test_features_are_the_instruction_sets_that_compilers_use(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 fma smep constant_tsc\n")
    monkeypatch.setattr(cpu, "_CPU_INFO", cpuinfo)
    assert cpu._host_features.__wrapped__()[1:] == ("avx2", "fma")
    cpuinfo.write_text("processor : 0\nFeatures\t: fp asimd sve sme cpuid\n")
    assert cpu._host_features.__wrapped__()[1:] == ("asimd", "sme", "sve")
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "none")
    assert cpu._host_features.__wrapped__()
