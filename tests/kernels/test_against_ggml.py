"""Compares quantization with ggml's own, and decodes the GGUF blocks with ggml.

Needs ``ggml-python``, which builds ggml when it is installed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from mllama.demo_model import MODEL_PATH
from mllama.kernels.ops.gguf_quantize import FORMATS, quantize
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.gguf.tensor_encoding import planned_tensors
from tests.kernels.ggml_blocks import ggml_dequantize, ggml_quantize

Array = np.ndarray
Make = Callable[[], Array]

MAX_ERROR_RATIO = 1.02
"""Allowed ratio of our quantization error to ggml's."""

each_format = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)


def relative_error(blocks: Array, kind: Kind, weights: Array) -> float:
    error = np.square(dequantize(blocks, kind) - weights, dtype=np.float64).mean()
    return float(np.sqrt(error / np.square(weights, dtype=np.float64).mean()))


def gaussian() -> Array:
    return np.random.default_rng(1).normal(0, 0.02, (256, 2048))


def heavy_tailed() -> Array:
    return 0.01 * np.random.default_rng(2).standard_t(3, (256, 2048))


def outlier_columns() -> Array:
    weights = gaussian()
    weights[:, ::97] *= 30
    return weights


def zero_blocks() -> Array:
    weights = gaussian()
    weights[::3] = 0
    weights[:, 256:768] = 0
    return weights


def shifted() -> Array:
    return gaussian() + np.random.default_rng(3).normal(0, 0.02, (256, 1))


@each_format
@pytest.mark.parametrize(
    "make", [gaussian, heavy_tailed, outlier_columns, zero_blocks, shifted]
)
def test_error_is_close_to_ggmls(kind: Kind, make: Make) -> None:
    weights = make().astype(np.float32)
    ours, theirs = quantize(weights, kind), ggml_quantize(weights, kind)
    error = relative_error(ours, kind, weights)
    assert 0 < error <= MAX_ERROR_RATIO * relative_error(theirs, kind, weights)


@each_format
def test_error_is_close_to_ggmls_on_the_demo_models_matrices(kind: Kind) -> None:
    checkpoint = open_checkpoint(MODEL_PATH)
    names = [
        tensor.name
        for tensor in planned_tensors(checkpoint.config, "q4_0")
        if tensor.kind in FORMATS and tensor.shape[-1] % GGML_QUANT_SIZES[kind][0] == 0
    ]
    assert len(names) > 20
    for name in names:
        weights = checkpoint.tensors[name].floats()
        error = relative_error(quantize(weights, kind), kind, weights)
        theirs = relative_error(ggml_quantize(weights, kind), kind, weights)
        assert 0 < error <= MAX_ERROR_RATIO * theirs, name


@each_format
def test_most_bytes_equal_ggmls(kind: Kind) -> None:
    weights = gaussian().astype(np.float32)
    same = quantize(weights, kind) == ggml_quantize(weights, kind)
    assert same.mean() > 0.99


@each_format
@pytest.mark.parametrize("make", [heavy_tailed, zero_blocks])
def test_ggml_and_the_gguf_package_decode_the_same_values(
    kind: Kind, make: Make
) -> None:
    blocks = quantize(make().astype(np.float32), kind)
    theirs, ours = ggml_dequantize(blocks, kind), dequantize(blocks, kind)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9)


@each_format
def test_zeros_decode_to_zeros_in_ggml(kind: Kind) -> None:
    weights = zero_blocks().astype(np.float32)
    actual = ggml_dequantize(quantize(weights, kind), kind)
    assert not actual[weights == 0].any()
