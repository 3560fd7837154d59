"""The demo model's graphs that ship are those of the present sources, and right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo.compile_graphs import FORM
from mllama.compilation.host import CPU_TARGETS, versions
from mllama.compilation.shipped import ShippedForm, staleness
from mllama.compilation.store import CompiledStore
from mllama.demo_model import MODEL_PATH
from mllama.kernels.dispatch import AVX2
from mllama.launch.options import EngineOptions
from mllama.utils.cpu import cpu_features
from tests.parity.pipeline import Pipeline
from tests.reference.cases import case
from tests.reference.compare import assert_close

CASES = ("one_tile", "text_only", "two_images_in_one_turn", "tall")


def test_the_graphs_run_on_every_cpu_with_avx2() -> None:
    manifest = ShippedForm(FORM).manifest
    assert manifest.cpu == CPU_TARGETS["x86-64-v3"]
    assert manifest.kernels == AVX2
    assert sum(file.stat().st_size for file in FORM.iterdir()) < 1_000_000


@pytest.mark.parametrize("field", ["max", "mllama", "sources"])
def test_graphs_of_another_version_are_stale(field: str, tmp_path: Path) -> None:
    manifest = replace(ShippedForm(FORM).manifest, **versions())
    CompiledStore(tmp_path).write_manifest(manifest)
    assert staleness(tmp_path) is None
    CompiledStore(tmp_path).write_manifest(replace(manifest, **{field: "0"}))
    reason = staleness(tmp_path)
    assert reason is not None
    assert reason.startswith(f"{field} 0, now ")


def test_missing_graphs_are_stale(tmp_path: Path) -> None:
    assert "has no compiled model" in str(staleness(tmp_path / "none"))


@pytest.mark.long
@pytest.mark.compiles
@pytest.mark.skipif(staleness(FORM) is not None, reason="stale: `make demo-graphs`")
@pytest.mark.skipif(
    not set(CPU_TARGETS["x86-64-v3"]) <= set(cpu_features()), reason="needs AVX2"
)
def test_they_compute_what_freshly_compiled_graphs_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path))
    files = EngineOptions(devices="cpu").resolve()
    assert files.compiled is not None
    # MAX compiles what it is given no settings for.
    shipped, fresh = (
        Pipeline(MODEL_PATH, max_batch_size=4, **options)
        for options in (
            {"vision_config_overrides": files.settings.to_max()},
            {},
        )
    )
    assert shipped.model.compiler.kernels == AVX2
    unpacked = tmp_path / "compiled" / ShippedForm(FORM).manifest.key()
    assert len(list(unpacked.glob("*.mef"))) == 2
    tile = int(shipped.model.arch_config.model.vision_config.image_size)
    samples = [case(name, tile) for name in CASES]
    for sample, found, expected in zip(
        samples, shipped.decode(samples), fresh.decode(samples), strict=True
    ):
        assert found.token_ids == expected.token_ids
        assert_close(
            np.stack(found.logits),
            np.stack(expected.logits),
            what=sample.name,
            tolerance=2e-5,
        )
