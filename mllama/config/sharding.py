"""Checks that a model can be divided among devices."""

from __future__ import annotations

import math

from mllama.config import MllamaConfig
from mllama.errors import ConfigError


def check_shards(config: MllamaConfig, devices: int) -> None:
    """Checks that each device gets an equal share of every divided size.

    Raises:
        ConfigError: If not; it names the size and the possible numbers of devices.
    """
    sizes = _divided_sizes(config)
    for name, size in sizes.items():
        if size % devices:
            most = math.gcd(*sizes.values())
            *others, last = (
                str(number) for number in range(1, most + 1) if most % number == 0
            )
            raise ConfigError(
                f"{devices} devices can't share {name} {size} evenly; this model runs "
                "on " + (f"{', '.join(others)} or {last}" if others else last)
            )


def _divided_sizes(config: MllamaConfig) -> dict[str, int]:
    """Returns the sizes that are divided among devices, by name in config.json."""
    text, vision = config.text_config, config.vision_config
    return {
        "text_config.num_key_value_heads": text.num_key_value_heads,
        "text_config.num_attention_heads": text.num_attention_heads,
        "text_config.intermediate_size": text.intermediate_size,
        "text_config.vocab_size": text.vocab_size,
        "vision_config.attention_heads": vision.attention_heads,
        "vision_config.intermediate_size": vision.intermediate_size,
    }
