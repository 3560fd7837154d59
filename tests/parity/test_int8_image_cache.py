"""Compares an image cache in int8 with the reference, and its attention maps too."""

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

TOLERANCE = 0.05
"""Relative to the standard deviation of the logits."""

MIN_ERROR = 1e-4
"""The smallest error that shows that int8 is used; the error of floats is below it."""

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU doesn't support the custom ops",
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(
        checkpoint(),
        vision_config_overrides=ModelSettings(image_cache_encoding="int8").to_max(),
        max_batch_size=4,
    )


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return Reference(checkpoint())


@pytest.mark.parametrize("name", ["four_tiles", "text_between_images", "text_only"])
def test_tokens_and_logits_equal_those_of_floats(
    pipeline: Pipeline, oracle: Reference, name: str
) -> None:
    assert pipeline.model.image_cache.storage.pages[0].dtype is DType.int8
    error = rounding_error(pipeline, oracle, name)
    assert error.max() < TOLERANCE, error
    assert (error.max() > MIN_ERROR) == (name != "text_only"), error


def test_maps_equal_the_weights_of_the_reference(pipeline: Pipeline) -> None:
    check_maps(pipeline)


def check_maps(pipeline: Pipeline) -> None:
    """Compares attention maps, whose graph keeps a KV cache of its own, with weights of
    the reference."""
    runner = MapRunner(pipeline.model)
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    sample = case("text_before_image", tile)
    grids = grids_of(pipeline, sample)
    context = pipeline.context(sample)
    weights = reference_weights(sample)
    layer = runner.cross_layers[-1]
    options = AttentionOptions(heads=[(layer, 1)])
    found = runner.compute(context, grids, 1, 1, options)
    expected = expected_maps(grids, weights[layer][1], context.tokens.all, 1)
    for image, (maps, class_mass) in zip(found.images, expected, strict=True):
        assert maps.max() > 0
        np.testing.assert_allclose(image.maps, maps, rtol=0.05, atol=1e-4)
        np.testing.assert_allclose(image.class_mass, class_mass, rtol=0.05, atol=1e-4)
