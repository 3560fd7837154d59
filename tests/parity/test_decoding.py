"""Tokens and logits equal those of the reference, alone and in a batch."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.pipeline import STEPS, Answer, Pipeline
from tests.reference.cases import Case, case, case_names
from tests.reference.checkpoints import checkpoint
from tests.reference.compare import assert_close, assert_same_tokens
from tests.reference.oracle import Reference, reference

MIXED_BATCH = ("one_tile", "text_only", "two_images_in_one_turn", "tall")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(checkpoint(), max_batch_size=4)


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return reference(checkpoint())


@pytest.fixture(scope="module")
def tile(pipeline: Pipeline) -> int:
    return int(pipeline.model.arch_config.model.vision_config.image_size)


def check(answer: Answer, sample: Case, oracle: Reference) -> None:
    expected = oracle.decode(sample.messages, STEPS)
    assert_close(np.stack(answer.logits), expected.logits, what=sample.name)
    assert_same_tokens(
        answer.token_ids, expected.token_ids, what=sample.name, logits=expected.logits
    )


@pytest.mark.parametrize("name", case_names())
def test_prefill_and_decode_equal_the_reference(
    pipeline: Pipeline, oracle: Reference, tile: int, name: str
) -> None:
    sample = case(name, tile)
    (answer,) = pipeline.decode([sample])
    check(answer, sample, oracle)


def test_a_mixed_batch_equals_the_reference(
    pipeline: Pipeline, oracle: Reference, tile: int
) -> None:
    cases = [case(name, tile) for name in MIXED_BATCH]
    for answer, sample in zip(pipeline.decode(cases), cases, strict=True):
        check(answer, sample, oracle)


def test_prompt_tokens_equal_those_of_the_reference_processor(
    pipeline: Pipeline, oracle: Reference, tile: int
) -> None:
    for name in case_names():
        sample = case(name, tile)
        context = pipeline.context(sample)
        prompt = oracle.prompt(sample.messages)
        assert context.tokens.all.tolist() == prompt.token_ids.tolist(), name
        tiles = tuple(len(image.pixel_values) for image in context.images)
        assert tiles == prompt.num_tiles, name


def test_a_cached_image_is_not_encoded_again(pipeline: Pipeline, tile: int) -> None:
    sample = case("one_tile", tile)
    pipeline.decode([sample])
    before = pipeline.model.image_cache.stats().misses
    pipeline.decode([sample])
    assert pipeline.model.image_cache.stats().misses == before


def test_no_entry_stays_pinned_after_requests_end(
    pipeline: Pipeline, tile: int
) -> None:
    context = pipeline.context(case("one_tile", tile))
    pipeline.decode([case("image_per_turn", tile)])
    assert pipeline.model.image_cache.blocks.pinned_entries == 0
    # MAX also calls release for requests that never ran.
    pipeline.model.release(context.request_id)
    assert pipeline.model.image_cache.blocks.pinned_entries == 0
