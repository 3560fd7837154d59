"""With the vision side's matrices in bytes answers are those of floats, but for what
eight bits lose."""

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
"""Of the logits' spread."""

LEAST = 1e-4
"""Of it: floats err less."""

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU lacks what own operations need",
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


def test_the_matrices_are_bytes(pipeline: Pipeline) -> None:
    kinds = {name: data.dtype for name, data in pipeline.model._state_dict.items()}
    assert kinds["vision_model.transformer.layers.0.mlp.fc1.weight"] is DType.int8
    assert kinds["vision_model.transformer.layers.0.mlp.fc1.scale"] is DType.float32
    assert kinds["multi_modal_projector.parts.1.weight"] is DType.int8
    assert "multi_modal_projector.weight" not in kinds
    assert kinds["multi_modal_projector.bias"] is DType.float32
    assert kinds["vision_model.patch_embedding.weight"] is DType.float32


@pytest.mark.parametrize("name", ["four_tiles", "text_between_images", "text_only"])
def test_answers_are_those_of_floats(
    pipeline: Pipeline, oracle: Reference, name: str
) -> None:
    error = rounding_error(pipeline, oracle, name)
    assert error.max() < TOLERANCE, error
    assert (error.max() > LEAST) == (name != "text_only"), error
