"""Compares bfloat16 with float32, to within its 8 bits of precision.

This runs on a CPU, with the graphs that a GPU gets.
"""

from __future__ import annotations

import pytest
from max.dtype import DType

from mllama.max_model.settings import ModelSettings
from tests.parity.pipeline import Pipeline, rounding_error
from tests.reference.checkpoints import checkpoint
from tests.reference.oracle import Reference

pytestmark = pytest.mark.long
"""The graphs that GPUs get take a CPU minutes to compile."""

TOLERANCE = 0.05
"""Relative to the standard deviation of the logits."""

CASES = ("four_tiles", "text_only", "text_between_images")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(
        checkpoint(dtype="bfloat16"),
        vision_config_overrides=ModelSettings(bfloat16_on_cpu=True).to_max(),
        max_batch_size=4,
    )


@pytest.fixture(scope="module")
def oracle() -> Reference:
    """transformers in float32 with the same bfloat16 weights."""
    return Reference(checkpoint(dtype="bfloat16"))


def test_weights_and_caches_are_bfloat16(pipeline: Pipeline) -> None:
    config = pipeline.model.arch_config
    assert config.dtype is DType.bfloat16
    assert config.image_cache_params.dtype is DType.bfloat16
    assert config.kv_params.dtype is DType.bfloat16


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_logits_equal_those_of_float32(
    pipeline: Pipeline, oracle: Reference, name: str
) -> None:
    error = rounding_error(pipeline, oracle, name)
    assert error.max() < TOLERANCE, error
