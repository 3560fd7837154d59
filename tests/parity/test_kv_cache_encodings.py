"""Compares a KV cache in bfloat16 and in int8 with the reference."""

from __future__ import annotations

import numpy as np
import pytest
from max.dtype import DType
from max.graph import DeviceRef

from mllama.kernels.dispatch import uses_custom_ops
from mllama.max_model.settings import ModelSettings
from mllama.requests.attention import AttentionOptions
from mllama.runtime.attention.maps import MapRunner
from tests.parity.pipeline import Pipeline, rounding_error
from tests.parity.test_attention_maps import expected_maps, grids_of, reference_weights
from tests.reference.cases import case
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


def check_maps(pipeline: Pipeline) -> None:
    """Compares attention maps, whose graph keeps a KV cache of its own."""
    runner = MapRunner(pipeline.model)
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    sample = case("text_before_image", tile)
    grids = grids_of(pipeline, sample)
    context = pipeline.context(sample)
    layer = runner.cross_layers[-1]
    options = AttentionOptions(heads=[(layer, 1)])
    found = runner.compute(context, grids, 1, 1, options)
    weights = reference_weights(sample)
    expected = expected_maps(grids, weights[layer][1], context.tokens.all, 1)
    for image, (maps, _) in zip(found.images, expected, strict=True):
        assert maps.max() > 0
        np.testing.assert_allclose(image.maps, maps, rtol=0.05, atol=1e-4)
