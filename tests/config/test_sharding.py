"""Sizes that can't be divided evenly among the devices are refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from mllama.config import MllamaConfig
from mllama.config.sharding import check_shards
from mllama.errors import ConfigError

PUBLISHED = MllamaConfig.from_dict({"model_type": "mllama"})


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_published_sizes_divide_by_powers_of_two(devices: int) -> None:
    check_shards(PUBLISHED, devices)


@pytest.mark.parametrize("devices", [3, 16])
def test_error_names_kv_heads_and_possible_numbers_of_devices(devices: int) -> None:
    with pytest.raises(ConfigError) as caught:
        check_shards(PUBLISHED, devices)
    assert str(caught.value) == (
        f"{devices} devices can't share text_config.num_key_value_heads 8 evenly; "
        "this model runs on 1, 2, 4 or 8"
    )


def test_error_names_vision_heads() -> None:
    vision = dataclasses.replace(PUBLISHED.vision_config, attention_heads=10)
    with pytest.raises(ConfigError, match=r"vision_config.attention_heads 10.* 1 or 2"):
        check_shards(dataclasses.replace(PUBLISHED, vision_config=vision), 4)
