"""Logits after 10,000 tokens equal those of the reference, to 5e-6 of the largest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.parity.pipeline import STEPS, Pipeline
from tests.reference.cases import Case, picture
from tests.reference.checkpoints import DEFAULT_SEED, write_checkpoint
from tests.reference.compare import assert_close, assert_same_tokens
from tests.reference.configs import ROPE_SCALING, ROPE_THETA, tiny_config
from tests.reference.oracle import reference

TOKENS = 10_000
MAX_LENGTH = 12_000
TOKENS_PER_WORD = 1.34
TOLERANCE = 5e-6
"""Frequencies that are rounded once, from float64, give 1.1e-5."""


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the published scaling of positions."""
    config = tiny_config(
        text={
            "max_position_embeddings": 131_072,
            "rope_parameters": {"rope_theta": ROPE_THETA, **ROPE_SCALING},
        }
    )
    return write_checkpoint(
        tmp_path_factory.mktemp("long") / "checkpoint", config, DEFAULT_SEED
    )


@pytest.mark.parametrize("with_image", [False, True])
def test_logits_of_a_long_prompt_equal_the_reference(
    long_checkpoint: Path, with_image: bool
) -> None:
    pipeline = Pipeline(
        long_checkpoint,
        max_batch_size=1,
        max_length=MAX_LENGTH,
        max_batch_input_tokens=MAX_LENGTH,
    )
    oracle = reference(long_checkpoint)
    sample = _long_case(pipeline, with_image=with_image)
    (answer,) = pipeline.decode([sample])
    expected = oracle.decode(sample.messages, STEPS)
    assert_close(
        np.stack(answer.logits[-STEPS - 1 :]),
        expected.logits,
        what="10,000 tokens",
        tolerance=TOLERANCE,
    )
    assert_same_tokens(answer.token_ids, expected.token_ids, what="10,000 tokens")


def _long_case(pipeline: Pipeline, *, with_image: bool) -> Case:
    """Returns a case whose prompt has at least :data:`TOKENS` tokens."""
    generator = np.random.default_rng(0)
    words = ["red", "blue", "circle", "star", "left", "of", "the", "picture", "seven"]
    text = " ".join(generator.choice(words, round(TOKENS / TOKENS_PER_WORD) + 500))
    parts: list[dict[str, object]] = [{"type": "text", "text": text}]
    if with_image:
        parts.insert(0, {"type": "image", "image": picture("long", 100, 100)})
    sample = Case(
        "long", ({"role": "user", "content": parts},), (1,) if with_image else ()
    )
    length = len(pipeline.context(sample).tokens.all)
    assert TOKENS <= length < MAX_LENGTH - STEPS, length
    return sample
