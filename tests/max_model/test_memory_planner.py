"""The image cache has room for what is served, and on a GPU for the self-check."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from max.driver import DeviceSpec
from max.graph import DeviceRef
from max.pipelines.lib.memory_estimation import MemoryEstimator

from graphs.forms import MODELS
from mllama.errors import MllamaError
from mllama.kernels.dispatch import uses_custom_ops
from mllama.max_model import memory_planner
from mllama.max_model.draft.settings import DraftSettings
from mllama.max_model.memory_planner import (
    MllamaMemoryPlanner,
    draft_pages,
    image_cache_pages,
    image_cache_summary,
    plan_within_memory_limit,
    scratch_pages,
    self_check_pages,
)
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.settings import ModelSettings
from tests.reference.llama import write_llama

PAGE_BYTES = 1000
PER_IMAGE = 51


def planned(
    device: DeviceRef, size: int | None, draft: DraftSettings | None = None
) -> tuple[Any, Any, int]:
    """Returns the configurations, and the bytes that are reserved beside weights."""
    config: Any = SimpleNamespace(
        max_seq_len=1000,
        image_cache_params=SimpleNamespace(bytes_per_block=PAGE_BYTES),
        model=SimpleNamespace(
            vision_config=SimpleNamespace(max_num_tiles=4, num_patches=1601)
        ),
        devices=[device],
    )
    pipeline_config: Any = SimpleNamespace(
        model=SimpleNamespace(
            device_specs=[DeviceSpec.cpu()],
            vision_config_overrides=ModelSettings(
                image_cache_size=size, draft=draft
            ).to_max(),
        ),
        runtime=SimpleNamespace(max_batch_size=1),
    )
    planner = SimpleNamespace(_config=config)
    reserved = MllamaMemoryPlanner.estimate_activation_memory(
        planner, pipeline_config, None
    )
    return config, pipeline_config, reserved


def plan(device: DeviceRef, size: int | None) -> tuple[int, int]:
    """Returns the pages of the image cache, and those reserved with the scratch."""
    config, pipeline_config, reserved = planned(device, size)
    pages = image_cache_pages(config, pipeline_config)
    assert reserved == (pages + scratch_pages(config)) * PAGE_BYTES
    return pages, reserved // PAGE_BYTES


@pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU doesn't support the custom ops",
)
def test_int8_holds_nearly_twice_the_pictures_of_bfloat16() -> None:
    """Of four tiles, in 4 GiB, at the shape of the published 11B."""

    def summary(encoding: str) -> str:
        arch = MllamaArchConfig.for_graphs(
            MODELS["11b"], "q4_k", [DeviceRef.CPU()], image_cache_encoding=encoding
        )
        pages = (4 << 30) // arch.image_cache_params.bytes_per_block
        return image_cache_summary(arch, pages)

    line = "image cache: {} in {}, {} image(s) of 4 tiles"
    assert summary("bfloat16") == line.format("4.0 GiB", "bfloat16", 20)
    assert summary("int8") == line.format("4.0 GiB", "int8", 38)


def test_a_cpu_has_no_scratch_pages() -> None:
    assert plan(DeviceRef.CPU(), 60 * PAGE_BYTES) == (60, 60)
    assert plan(DeviceRef.CPU(), (1 + PER_IMAGE) * PAGE_BYTES) == (52, 52)
    with pytest.raises(MllamaError, match="can't hold an image of 4 tiles"):
        plan(DeviceRef.CPU(), PER_IMAGE * PAGE_BYTES)


def test_a_draft_model_has_memory_of_its_own(tmp_path: Path) -> None:
    folder = write_llama(tmp_path, seed=0)
    draft = DraftSettings(
        directory=folder,
        weight_path=(folder / "model.safetensors",),
        encoding="float32",
    )
    _, _, without = planned(DeviceRef.CPU(), 60 * PAGE_BYTES)
    config, pipeline_config, reserved = planned(DeviceRef.CPU(), 60 * PAGE_BYTES, draft)
    pages = draft_pages(draft, config, pipeline_config)
    assert pages * 128 >= 1000
    weights = (folder / "model.safetensors").stat().st_size
    # Keys and values of a page in each layer.
    text = draft.config.text_config
    keys = 128 * text.num_key_value_heads * text.head_dim * 4
    cache = pages * 2 * text.num_hidden_layers * keys
    assert reserved - without == pytest.approx(weights + cache, rel=0.05)


def test_a_gpus_scratch_pages_are_part_of_the_size() -> None:
    assert plan(DeviceRef.GPU(), 1000 * PAGE_BYTES) == (1000 - PER_IMAGE - 1, 1000)
    pages, reserved = plan(DeviceRef.GPU(), None)
    assert (pages, reserved) == (1 + 32 * PER_IMAGE, 2 + 33 * PER_IMAGE)


def test_a_gpus_cache_must_hold_the_pictures_of_the_self_check() -> None:
    fewest = self_check_pages(PER_IMAGE)
    most = fewest + PER_IMAGE + 1
    assert plan(DeviceRef.GPU(), most * PAGE_BYTES) == (fewest, most)
    with pytest.raises(
        MllamaError, match=r"can't hold the pictures of the self-check .* 205.1 KiB"
    ):
        plan(DeviceRef.GPU(), (most - 1) * PAGE_BYTES)


def test_caches_are_planned_within_the_limit_of_a_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Has MAX's own function put back at the end.
    monkeypatch.setattr(MemoryEstimator, "_free_memory", None)
    plan_within_memory_limit()
    cpu, gpu = (
        SimpleNamespace(
            is_host=is_host, stats={"free_memory": 900, "total_memory": 950}
        )
        for is_host in (True, False)
    )
    free_memory: Any = MemoryEstimator._free_memory
    monkeypatch.setattr(memory_planner, "host_memory_limit", lambda: 400)
    assert (free_memory([cpu]), free_memory([gpu, gpu])) == (400, 1800)
    monkeypatch.setattr(memory_planner, "host_memory_limit", lambda: 4000)
    assert free_memory([cpu]) == 900
    monkeypatch.setattr(memory_planner, "host_memory_limit", lambda: None)
    assert free_memory([cpu]) == 900
    cpu.stats["free_memory"] = 0  # The driver doesn't know.
    assert free_memory([cpu]) == 950


def test_an_image_cache_takes_its_share_of_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 600 * PAGE_BYTES
    monkeypatch.setattr(memory_planner, "host_memory_limit", lambda: limit)
    assert plan(DeviceRef.CPU(), None) == (61, 61)
