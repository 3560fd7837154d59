"""Own operations run where they can, and MAX's where they can't or are asked for."""

from __future__ import annotations

import pytest
from max.graph import DeviceRef

from mllama.errors import MllamaError
from mllama.kernels import choice

AVX2 = ("x86_64", "avx", "avx2", "f16c", "fma")
ARM = ("aarch64", "asimd", "bf16")


@pytest.mark.parametrize(
    ("features", "asked", "kernels"),
    [
        (AVX2, None, "own"),
        (AVX2, "auto", "own"),
        (AVX2, "", "own"),
        (AVX2, "max", "max"),
        (AVX2[:2], None, "max"),
        (ARM, "auto", "max"),
    ],
)
def test_the_choice(
    monkeypatch: pytest.MonkeyPatch,
    features: tuple[str, ...],
    asked: str | None,
    kernels: str,
) -> None:
    monkeypatch.setattr(choice, "cpu_features", lambda: features)
    if asked is None:
        monkeypatch.delenv(choice.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(choice.VARIABLE, asked)
    assert choice.chosen_kernels() == kernels
    assert choice.uses_own(DeviceRef.CPU()) == (kernels == "own")
    assert not choice.uses_own(DeviceRef.GPU(0))
    described = choice.described_kernels()
    assert described.startswith("own" if kernels == "own" else "MAX's")
    assert ("lacks" in described) == ("avx2" not in features)


def test_a_wrong_wish_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "fast")
    with pytest.raises(MllamaError, match="MLLAMA_KERNELS must be auto or max"):
        choice.chosen_kernels()
