"""Checks when graphs use custom ops, and when MAX's."""

from __future__ import annotations

import pytest
from max.graph import DeviceRef

from mllama.errors import MllamaError
from mllama.kernels import dispatch

AVX2 = ("x86_64", "avx", "avx2", "f16c", "fma")
AVX512 = (*AVX2, "avx512bw", "avx512dq", "avx512f", "avx512vl", "avx512_vnni")
AVXVNNI = (*AVX2, "avx_vnni")
ARM = ("aarch64", "asimd", "bf16")


@pytest.mark.parametrize(
    ("features", "asked", "kernels"),
    [
        (AVX2, None, "avx2"),
        (AVX2, "auto", "avx2"),
        (AVX2, "", "avx2"),
        (AVX2, "max", "max"),
        (AVX2[:2], None, "max"),
        (AVXVNNI, None, "avxvnni"),
        (AVXVNNI, "avxvnni", "avxvnni"),
        (AVXVNNI, "avx2", "avx2"),
        (AVXVNNI, "max", "max"),
        ((*AVX2[:2], "avx_vnni"), None, "max"),
        ((*AVX512, "avx_vnni"), None, "avx512"),
        ((*AVX512, "avx_vnni"), "avxvnni", "avxvnni"),
        ((*AVX512[:-1], "avx_vnni"), None, "avxvnni"),
        (AVX512, None, "avx512"),
        (AVX512, "avx2", "avx2"),
        (AVX512, "max", "max"),
        (AVX512[:-1], None, "avx2"),
        (AVX512[5:], None, "max"),
        (ARM, "auto", "max"),
        (ARM, "avx2", "max"),
    ],
)
def test_cpu_and_environment_choose_the_kernels(
    monkeypatch: pytest.MonkeyPatch,
    features: tuple[str, ...],
    asked: str | None,
    kernels: str,
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: features)
    if asked is None:
        monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(dispatch.VARIABLE, asked)
    assert dispatch.chosen_kernels() == kernels
    assert dispatch.uses_custom_ops(DeviceRef.CPU()) == (kernels != "max")
    assert dispatch.simd_width() == (16 if kernels == "avx512" else 8)
    assert dispatch.has_vnni() == (kernels in ("avx512", "avxvnni"))
    assert not dispatch.uses_custom_ops(DeviceRef.GPU(0))
    summary = dispatch.kernels_summary(dispatch.chosen_kernels())
    summaries = {
        "avx512": "custom kernels (AVX-512)",
        "avxvnni": "custom kernels (AVX-VNNI)",
        "avx2": "custom kernels (AVX2)",
    }
    assert summary.startswith(summaries.get(kernels, "MAX's"))
    assert ("lacks" in summary) == ("avx2" not in features)


def test_an_unknown_choice_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, "fast")
    with pytest.raises(MllamaError, match="must be auto, avxvnni, avx2 or max, not"):
        dispatch.chosen_kernels()


@pytest.mark.parametrize("features", [AVX2, AVX512, ARM])
def test_vnni_is_refused_where_the_cpu_lacks_it(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...]
) -> None:
    monkeypatch.setattr(dispatch, "cpu_features", lambda: features)
    monkeypatch.setenv(dispatch.VARIABLE, "avxvnni")
    with pytest.raises(MllamaError, match="this CPU lacks avx_vnni; use auto"):
        dispatch.chosen_kernels()
