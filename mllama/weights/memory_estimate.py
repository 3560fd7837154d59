"""How much memory weights take as they are served, which is not their files' size."""

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
    """Bytes of a model's weights in memory.

    Args:
        config: The model's.
        formats: Format of every tensor that is served in blocks, by canonical name.
        float_item_bytes: Bytes of a weight of the others.
        int8_vision: Whether the vision side's matrices are bytes.
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
