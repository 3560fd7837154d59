"""Images that can never be served are rejected before the request is queued."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from max.pipelines.context.exceptions import InputError

from mllama.max_model.image_limits import GPU_IMAGES, ImageLimits
from mllama.max_model.settings import ModelSettings


def limits(device: str, **settings: Any) -> ImageLimits:
    model = SimpleNamespace(
        vision_config_overrides=ModelSettings(**settings).to_max(),
        device_specs=[SimpleNamespace(device_type=device)],
    )
    return ImageLimits(SimpleNamespace(model=model))


def test_more_images_than_allowed_are_rejected() -> None:
    two = limits("cpu", max_images_per_request=2)
    two.check_count(2)
    with pytest.raises(InputError, match="has 3 images, but at most 2 are allowed"):
        two.check_count(3)


def test_a_gpu_rejects_images_but_not_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(GPU_IMAGES, raising=False)
    gpu = limits("gpu")
    gpu.check_count(0)
    with pytest.raises(InputError, match=r"wrong on a GPU .* --devices cpu") as refused:
        gpu.check_count(1)
    assert "\n" not in str(refused.value)
    monkeypatch.setenv(GPU_IMAGES, "1")
    gpu.check_count(1)
