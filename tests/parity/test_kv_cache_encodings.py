"""Compares a KV cache in bfloat16 and in int8 with the reference."""

from __future__ import annotations

import pytest
from max.dtype import DType
from max.graph import DeviceRef

from mllama.kernels.dispatch import uses_custom_ops
from mllama.max_model.settings import ModelSettings
from tests.parity.pipeline import Pipeline, rounding_error
from tests.parity.test_int8_image_cache import check_maps
from tests.reference.checkpoints import checkpoint
from tests.reference.oracle import Reference

TOLERANCES = {"bfloat16": (1e-4, 0.02), "int8": (1e-4, 0.05)}
"""Least and largest errors, relative to the standard deviation of the logits; those of
floats are below the least."""

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU doesn't support the custom ops",
)


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return Reference(checkpoint())


@pytest.mark.parametrize("encoding", TOLERANCES)
def test_tokens_and_logits_equal_those_of_floats(
    oracle: Reference, encoding: str
) -> None:
    pipeline = Pipeline(
        checkpoint(),
        vision_config_overrides=ModelSettings(kv_cache_encoding=encoding).to_max(),
        max_batch_size=4,
    )
    assert pipeline.model.kv_params.dtype is DType[encoding]
    assert pipeline.model.image_cache.storage.pages[0].dtype is DType.float32
    least, largest = TOLERANCES[encoding]
    for name in ("four_tiles", "text_between_images", "text_only"):
        error = rounding_error(pipeline, oracle, name)
        assert least < error.max() < largest, error
    check_maps(pipeline)
