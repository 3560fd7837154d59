"""Quantizes and dequantizes with ggml itself, which ``ggml-python`` builds."""

from __future__ import annotations

import ctypes

import ggml
import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

Array = np.ndarray


def ggml_quantize(weights: Array, kind: Kind) -> Array:
    """Quantizes a matrix with ggml, without an importance matrix."""
    length, size = GGML_QUANT_SIZES[kind]
    rows, width = weights.shape
    blocks = np.empty((rows, width // length * size), np.uint8)
    source = np.ascontiguousarray(weights, np.float32)
    written = ggml.ggml_quantize_chunk(
        int(kind),
        source.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
        blocks.ctypes.data,
        0,
        rows,
        width,
        None,
    )
    assert written == blocks.nbytes
    return blocks


def ggml_dequantize(blocks: Array, kind: Kind) -> Array:
    """Decodes GGUF blocks with ggml."""
    length, size = GGML_QUANT_SIZES[kind]
    values = np.empty((len(blocks), blocks.shape[1] // size * length), np.float32)
    traits = ggml.ggml_get_type_traits(int(kind)).contents
    blocks = np.ascontiguousarray(blocks)
    traits.to_float(
        blocks.ctypes.data,
        values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
        values.size,
    )
    return values
