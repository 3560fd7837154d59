"""This package's settings reach the model's process through MAX."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mllama.compilation.settings import CompiledSettings
from mllama.errors import MllamaError
from mllama.max_model.settings import DEFAULT_MAX_IMAGES, ModelSettings
from tests.compilation.test_manifest import MANIFEST


def handed_on(settings: ModelSettings) -> ModelSettings:
    """The settings as the model's process finds them."""
    overrides = json.loads(json.dumps(settings.to_max()))
    config: Any = SimpleNamespace(vision_config_overrides=overrides)
    return ModelSettings.from_max(config)


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings(),
        ModelSettings(
            image_cache_size="4GiB",
            max_images_per_request=3,
            bfloat16_on_cpu=True,
            int8_vision=True,
            lora_path=Path("/adapter"),
            compiled=CompiledSettings(
                manifest=MANIFEST, cache=Path("/cache"), saved=Path("/saved")
            ),
        ),
        ModelSettings(image_cache_size=1 << 30),
    ],
)
def test_settings_come_out_as_they_went_in(settings: ModelSettings) -> None:
    assert handed_on(settings) == settings


def test_a_model_that_max_started_itself_has_the_defaults() -> None:
    config: Any = SimpleNamespace(vision_config_overrides={})
    assert ModelSettings.from_max(config) == ModelSettings()
    assert ModelSettings().image_limit == DEFAULT_MAX_IMAGES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_images_per_request": 0}, "at least 1 image, not 0"),
        ({"image_cache_size": "much"}, "'much' is not a valid size of an image cache"),
    ],
)
def test_values_that_cant_be_used_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(MllamaError, match=message):
        ModelSettings(**settings)
