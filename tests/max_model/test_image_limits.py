"""Images that can never be served are rejected before the request is queued."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from max.pipelines.context.exceptions import InputError

from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.max_model.image_limits import ImageLimits
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


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (None, r"need a self-check, .* --devices cpu"),
        (
            ImageVerdict(ImageMode.REFUSED, CheckStage.RUNS, 4),
            r"failed at stage runs .* --devices cpu",
        ),
    ],
)
def test_a_gpu_rejects_images_but_not_text(
    verdict: ImageVerdict | None, message: str
) -> None:
    gpu = limits("gpu")
    if verdict is not None:
        gpu.set_gpu_verdict(lambda: verdict)
    gpu.check_count(0)
    with pytest.raises(InputError, match=message) as refused:
        gpu.check_count(1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mode", [ImageMode.DIRECT, ImageMode.SACRIFICIAL])
def test_a_gpu_that_passed_its_self_check_accepts_images(mode: ImageMode) -> None:
    gpu = limits("gpu", max_images_per_request=2)
    gpu.set_gpu_verdict(lambda: ImageVerdict(mode, CheckStage.PLACES, 1))
    gpu.check_count(2)
    with pytest.raises(InputError, match="at most 2"):
        gpu.check_count(3)
