"""MAX carries this package's settings to the model's process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mllama.compilation.settings import CompiledSettings
from mllama.errors import MllamaError
from mllama.max_model.draft.settings import DraftSettings
from mllama.max_model.settings import DEFAULT_MAX_IMAGES, ModelSettings
from tests.compilation.test_manifest import MANIFEST


def through_max(settings: ModelSettings) -> ModelSettings:
    """Returns the settings as the model's process receives them."""
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
            image_cache_encoding="int8",
            kv_cache_encoding="bfloat16",
            lora_path=Path("/adapter"),
            compiled=CompiledSettings(
                manifest=MANIFEST, cache=Path("/cache"), saved=Path("/saved")
            ),
            greedy_on_gpu=True,
            speculate="draft",
            draft=DraftSettings(
                directory=None, weight_path=(Path("/d.gguf"),), encoding="q4_k"
            ),
        ),
        ModelSettings(image_cache_size=1 << 30),
    ],
)
def test_settings_survive_the_way_through_max(settings: ModelSettings) -> None:
    assert through_max(settings) == settings


def test_a_model_that_max_starts_itself_has_the_defaults() -> None:
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
def test_invalid_values_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MllamaError, match=message):
        ModelSettings(**settings)
