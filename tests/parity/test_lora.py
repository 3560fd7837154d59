"""A model with an adapter answers as transformers does with the merged model."""

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
def made(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """An adapter of both sides, small enough that the model stays a model."""
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
def oracle(made: Merged, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("merged")
    return Reference(write_merged(made, checkpoint(), folder))


@pytest.fixture(scope="module")
def pipeline(made: Merged) -> Pipeline:
    """The graphs are those of the other tests; only their weights differ."""
    options = EngineOptions(
        model_path=checkpoint(), lora_path=made.folder, devices="cpu"
    )
    arguments = options.pipeline_args(options.resolve())
    return Pipeline(
        checkpoint(),
        max_batch_size=4,
        vision_config_overrides=arguments.vision_config_overrides,
    )


@pytest.mark.parametrize("name", CASES)
def test_answers_are_those_of_the_merged_model(
    pipeline: Pipeline, oracle: Reference, name: str
) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    one = case(name, tile)
    (answer,) = pipeline.decode([one])
    expected = oracle.decode(one.messages, STEPS)
    found = np.stack(answer.logits)
    assert_close(found, expected.logits, what=name)
    assert_same_tokens(
        answer.token_ids, expected.token_ids, what=name, logits=expected.logits
    )
    without = reference(checkpoint()).decode(one.messages, STEPS)
    assert max_relative_error(found[:1], without.logits[:1]) > 0.05
    assert answer.token_ids != without.token_ids
