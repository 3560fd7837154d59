"""The memory that served weights take, which differs from their files' size."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gguf import GGMLQuantizationType

from mllama.config import MllamaConfig
from mllama.weights.gguf.file import stored_bytes
from mllama.weights.names import expected_tensors
from mllama.weights.quantization_plan import int8_vision_formats


def served_bytes(
    config: MllamaConfig,
    formats: Mapping[str, GGMLQuantizationType],
    float_item_bytes: int,
    *,
    int8_vision: bool,
) -> int:
    """Returns the bytes of a model's weights in memory.

    Args:
        config: The model's config.
        formats: Format of every quantized tensor, by canonical name.
        float_item_bytes: Bytes of a weight in the other tensors.
        int8_vision: True if the vision encoder and projector are in int8.
    """
    if int8_vision:
        formats = {**formats, **int8_vision_formats(config)}
    total = 0
    for name, shape in expected_tensors(config).items():
        if name in formats:
            total += stored_bytes(formats[name], shape)
        else:
            total += math.prod(shape) * float_item_bytes
    return total
