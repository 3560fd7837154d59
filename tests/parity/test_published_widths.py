"""Models with the widths of the published ones and few layers equal the reference.

They have the sizes of the real model: 1601 patches per tile, heads of width 80 and 128,
tens of pages per image.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.pipeline import STEPS, Pipeline
from tests.reference.cases import REPRESENTATIVE_CASES, case
from tests.reference.checkpoints import checkpoint
from tests.reference.compare import assert_close, assert_same_tokens
from tests.reference.oracle import reference

# Compiling their graphs takes minutes.
pytestmark = pytest.mark.long

SEED = 0
"""Seed of a checkpoint whose best token leads clearly in every step of these cases."""


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(
        checkpoint("published_widths", SEED), max_batch_size=1, max_length=512
    )


@pytest.mark.parametrize("name", REPRESENTATIVE_CASES)
def test_published_widths_equal_the_reference(pipeline: Pipeline, name: str) -> None:
    vision = pipeline.model.arch_config.model.vision_config
    sample = case(name, vision.image_size)
    (answer,) = pipeline.decode([sample])
    expected = reference(checkpoint("published_widths", SEED)).decode(
        sample.messages, STEPS
    )
    assert_close(np.stack(answer.logits), expected.logits, what=name)
    assert_same_tokens(
        answer.token_ids, expected.token_ids, what=name, logits=expected.logits
    )
