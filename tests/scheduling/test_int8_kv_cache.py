"""A KV cache in int8 gives the same answers alone, in batches, in chunks, after shared
prefixes and with guesses."""

from __future__ import annotations

import pytest
from max.dtype import DType
from max.graph import DeviceRef
from PIL import Image

from mllama.kernels.dispatch import uses_custom_ops

from .conftest import BATCH, ask
from .harness import Scheduled

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU doesn't support the custom ops",
)


@pytest.fixture(scope="module")
def plain() -> Scheduled:
    """The reference, which prefills each prompt from its start."""
    return Scheduled(
        max_batch_size=BATCH,
        image_cache_size="16MiB",
        kv_cache_encoding="int8",
        prefix_caching=False,
        overlaps=False,
    )


@pytest.fixture(scope="module")
def sharing() -> Scheduled:
    return Scheduled(
        max_batch_size=BATCH,
        image_cache_size="16MiB",
        kv_cache_encoding="int8",
        speculate="lookup",
    )


def test_a_page_is_little_more_than_a_quarter_of_one_in_float32(
    plain: Scheduled, roomy: Scheduled
) -> None:
    int8, floats = (s.pipeline.kv_manager.params for s in (plain, roomy))
    assert int8.dtype is DType.int8
    assert int8.bytes_per_block * 4 * floats.head_dim == floats.bytes_per_block * (
        floats.head_dim + 4
    )


def test_batches_chunks_prefixes_and_guesses_change_no_answer(
    plain: Scheduled, sharing: Scheduled, pictures: list[Image.Image]
) -> None:
    what = "What is in the picture? " * 12
    conversations = [ask(picture, what) for picture in pictures]
    conversations += [ask(pictures[0], what + "And where?"), ask(what + "No picture.")]
    expected = [plain.alone(messages) for messages in conversations]
    for chunk in (8192, 100):
        sharing.chunk_size(chunk)
        assert sharing.answers(conversations) == expected


def test_answers_are_those_of_floats(
    plain: Scheduled, roomy: Scheduled, pictures: list[Image.Image]
) -> None:
    """The demo model knows the pictures' shapes too well for rounding to matter."""
    conversations = [ask(picture, "What is in the picture?") for picture in pictures]
    same = [plain.alone(each) == roomy.alone(each) for each in conversations]
    assert sum(same) >= 10
