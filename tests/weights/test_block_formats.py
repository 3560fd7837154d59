"""Blocks are what ggml's readers expect, and as near to the floats as they can be."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from mllama.weights.block_formats import QUANTISERS, quantise

# Relative errors on normal values; ggml's own search reaches the same.
ERRORS = {Kind.Q4_0: 0.087, Kind.Q4_K: 0.073, Kind.Q6_K: 0.0180}


def relative_error(values: np.ndarray, kind: Kind) -> float:
    found = dequantize(quantise(values, kind), kind)
    return float(np.sqrt(((found - values) ** 2).mean() / (values**2).mean()))


@pytest.mark.parametrize("kind", QUANTISERS)
def test_the_error_is_small(kind: Kind) -> None:
    values = np.random.default_rng(0).normal(0, 0.02, (64, 1024)).astype(np.float32)
    assert relative_error(values, kind) < ERRORS[kind]


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0])
def test_scales_and_signs_of_any_size_survive(kind: Kind, offset: float) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(offset, 1, (16, 512)).astype(np.float32)
    values *= generator.uniform(1e-4, 1e3, (16, 1)).astype(np.float32)
    for row in values:
        assert relative_error(row[None], kind) < 0.13


@pytest.mark.parametrize("kind", QUANTISERS)
def test_zeros_stay_zeros(kind: Kind) -> None:
    zeros = np.zeros((3, 512), np.float32)
    assert not dequantize(quantise(zeros, kind), kind).any()


@pytest.mark.parametrize("kind", QUANTISERS)
def test_rows_are_independent_and_sized_as_the_format_says(kind: Kind) -> None:
    values = np.random.default_rng(2).normal(0, 1, (5, 768)).astype(np.float32)
    together = quantise(values, kind)
    length, size = gguf.GGML_QUANT_SIZES[kind]
    assert together.shape == (5, 768 // length * size)
    alone = [quantise(row[None], kind) for row in values]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_q4_0_is_the_gguf_packages_bit_for_bit() -> None:
    values = np.random.default_rng(3).normal(0, 1, (8, 512)).astype(np.float32)
    theirs = gguf.quants.quantize(values, Kind.Q4_0)
    np.testing.assert_array_equal(quantise(values, Kind.Q4_0), theirs)


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K])
def test_what_blocks_hold_exactly_comes_back(kind: Kind) -> None:
    """Quantising what was read from blocks changes next to nothing."""
    values = np.random.default_rng(4).normal(0, 1, (8, 512)).astype(np.float32)
    once = dequantize(quantise(values, kind), kind)
    assert relative_error(once, kind) < 0.012


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="320 is no multiple of 256"):
        quantise(np.zeros((2, 320), np.float32), Kind.Q4_K)
