"""Compares the int8 vision encoder and projector with those in floats."""

from __future__ import annotations

import pytest
from max.dtype import DType
from max.graph import DeviceRef

from mllama.kernels.dispatch import uses_custom_ops
from mllama.max_model.settings import ModelSettings
from tests.parity.pipeline import Pipeline, rounding_error
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
        vision_config_overrides=ModelSettings(int8_vision=True).to_max(),
        max_batch_size=4,
    )


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return Reference(checkpoint())


def test_vision_weights_are_int8(pipeline: Pipeline) -> None:
    dtypes = {name: data.dtype for name, data in pipeline.model._state_dict.items()}
    assert dtypes["vision_model.transformer.layers.0.mlp.fc1.weight"] is DType.int8
    assert dtypes["vision_model.transformer.layers.0.mlp.fc1.scale"] is DType.float32
    assert dtypes["multi_modal_projector.parts.1.weight"] is DType.int8
    assert "multi_modal_projector.weight" not in dtypes
    assert dtypes["multi_modal_projector.bias"] is DType.float32
    assert dtypes["vision_model.patch_embedding.weight"] is DType.float32


@pytest.mark.parametrize("name", ["four_tiles", "text_between_images", "text_only"])
def test_tokens_and_logits_equal_those_of_floats(
    pipeline: Pipeline, oracle: Reference, name: str
) -> None:
    error = rounding_error(pipeline, oracle, name)
    assert error.max() < TOLERANCE, error
    assert (error.max() > MIN_ERROR) == (name != "text_only"), error
