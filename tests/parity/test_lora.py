"""A model with a LoRA adapter equals the merged model in transformers."""

from __future__ import annotations

import numpy as np
import pytest

from mllama.launch.options import EngineOptions
from tests.parity.pipeline import STEPS, Pipeline
from tests.reference.adapters import Merged, write_adapter, write_merged
from tests.reference.cases import case
from tests.reference.checkpoints import checkpoint
from tests.reference.compare import assert_close, assert_same_tokens, max_relative_error
from tests.reference.oracle import Reference, reference

CASES = ("four_tiles", "text_only", "text_between_images")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """An adapter of text and vision layers that changes the weights only slightly."""
    return write_adapter(
        tmp_path_factory.mktemp("adapter"),
        checkpoint(),
        names="old",
        strength=0.05,
        r=8,
        lora_alpha=16,
        use_rslora=True,
        target_modules=["q_proj", "v_proj", "down_proj", "fc2", "embed_tokens"],
        modules_to_save=["multi_modal_projector"],
    )


@pytest.fixture(scope="module")
def oracle(merged: Merged, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("merged")
    return Reference(write_merged(merged, checkpoint(), folder))


@pytest.fixture(scope="module")
def pipeline(merged: Merged) -> Pipeline:
    """The pipeline with the adapter.  Its graphs are the same as without it."""
    options = EngineOptions(
        model_path=checkpoint(), lora_path=merged.folder, devices="cpu"
    )
    arguments = options.pipeline_args(options.resolve())
    return Pipeline(
        checkpoint(),
        max_batch_size=4,
        vision_config_overrides=arguments.vision_config_overrides,
    )


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_logits_equal_those_of_the_merged_model(
    pipeline: Pipeline, oracle: Reference, name: str
) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    sample = case(name, tile)
    (answer,) = pipeline.decode([sample])
    expected = oracle.decode(sample.messages, STEPS)
    logits = np.stack(answer.logits)
    assert_close(logits, expected.logits, what=name)
    assert_same_tokens(
        answer.token_ids, expected.token_ids, what=name, logits=expected.logits
    )
    without = reference(checkpoint()).decode(sample.messages, STEPS)
    assert max_relative_error(logits[:1], without.logits[:1]) > 0.05
    assert answer.token_ids != without.token_ids
