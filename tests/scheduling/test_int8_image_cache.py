"""An image cache in int8 shares, copies and evicts images as one in floats does."""

from __future__ import annotations

import pytest
from max.dtype import DType
from max.graph import DeviceRef
from PIL import Image

from mllama.kernels.dispatch import uses_custom_ops

from .conftest import BATCH, ask
from .harness import Scheduled

WHAT = "What is in the picture?"

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU doesn't support the custom ops",
)


@pytest.fixture(scope="module")
def int8_roomy() -> Scheduled:
    return Scheduled(
        max_batch_size=BATCH,
        image_cache_size="16MiB",
        image_cache_encoding="int8",
        overlaps=False,
    )


@pytest.fixture(scope="module")
def int8_tight(int8_roomy: Scheduled) -> Scheduled:
    """Its cache has room for three images of one page."""
    page = int8_roomy.image_cache.storage.params.bytes_per_block
    return Scheduled(
        max_batch_size=BATCH, image_cache_size=4 * page, image_cache_encoding="int8"
    )


def test_a_page_is_little_more_than_a_quarter_of_one_in_float32(
    int8_roomy: Scheduled, roomy: Scheduled
) -> None:
    int8, floats = (s.image_cache.storage.params for s in (int8_roomy, roomy))
    assert int8.dtype is DType.int8
    head_dim = floats.head_dim
    assert int8.bytes_per_block * 4 * head_dim == floats.bytes_per_block * (
        head_dim + 4
    )


def test_evicted_shared_and_copied_images_give_the_same_answers(
    int8_roomy: Scheduled, int8_tight: Scheduled, pictures: list[Image.Image]
) -> None:
    conversations = [ask(p, WHAT) for p in pictures for _ in range(2)]
    conversations += [
        ask(pictures[1], pictures[0], WHAT),
        ask(pictures[0], "and", pictures[1], WHAT),
        ask("No picture at all."),
    ]
    expected = [int8_roomy.alone(messages) for messages in conversations]
    assert int8_roomy.image_cache.stats().misses == len(pictures)
    assert int8_tight.answers(conversations) == expected
    assert int8_tight.blocks.evictions > 0
    assert int8_tight.blocks.pinned_entries == 0


def test_answers_are_those_of_floats(
    int8_roomy: Scheduled, roomy: Scheduled, pictures: list[Image.Image]
) -> None:
    """The demo model knows the pictures' shapes too well for rounding to matter."""
    conversations = [ask(p, WHAT) for p in pictures]
    same = [int8_roomy.alone(c) == roomy.alone(c) for c in conversations]
    assert sum(same) >= 10
