"""A model that devices can't share evenly is refused, and names what is in the way."""

from __future__ import annotations

import dataclasses

import pytest

from mllama.config import MllamaConfig
from mllama.config.sharding import check_shards
from mllama.errors import ConfigError

PUBLISHED = MllamaConfig.from_dict({"model_type": "mllama"})


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_published_sizes_run_on_powers_of_two(devices: int) -> None:
    check_shards(PUBLISHED, devices)


@pytest.mark.parametrize("devices", [3, 16])
def test_kv_heads_that_cannot_be_divided_are_named(devices: int) -> None:
    with pytest.raises(ConfigError) as caught:
        check_shards(PUBLISHED, devices)
    assert str(caught.value) == (
        f"{devices} devices can't share text_config.num_key_value_heads 8 evenly; "
        "this model runs on 1, 2, 4 or 8"
    )


def test_what_is_in_the_way_on_the_vision_side_is_named_too() -> None:
    vision = dataclasses.replace(PUBLISHED.vision_config, attention_heads=10)
    with pytest.raises(ConfigError, match=r"vision_config.attention_heads 10.* 1 or 2"):
        check_shards(dataclasses.replace(PUBLISHED, vision_config=vision), 4)
