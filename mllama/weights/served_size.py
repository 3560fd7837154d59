"""How much memory weights take as they are served, which is not their files' size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from gguf import GGML_QUANT_SIZES

from mllama.config import MllamaConfig
from mllama.weights.gguf_checkpoint import open_gguf, served_formats
from mllama.weights.names import canonical_name, expected_tensors
from mllama.weights.safetensors_header import read_header


def served_bytes(
    files: Iterable[Path], config: MllamaConfig, float_item_bytes: int
) -> int:
    """Bytes of a model's weights in memory.

    Args:
        files: A GGUF file or safetensors files.
        config: The model's.
        float_item_bytes: Bytes of a weight that is no block.

    Raises:
        CheckpointError: If a file is damaged.
    """
    total = 0
    shapes = expected_tensors(config)
    for path in files:
        if path.suffix == ".gguf":
            for name, kind in served_formats(open_gguf(path), config).items():
                elements = math.prod(shapes[name])
                if kind is None:
                    total += elements * float_item_bytes
                else:
                    length, size = GGML_QUANT_SIZES[kind]
                    total += elements // length * size
            continue
        total += sum(
            math.prod(entry.shape) * float_item_bytes
            for name, entry in read_header(path).items()
            if canonical_name(name) in shapes
        )
    return total
