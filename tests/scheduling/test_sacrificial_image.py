"""Answers are right on a device whose first image of each run is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

from mllama.image_cache.verdict import ImageMode
from tests.runtime.gpu_faults import (
    FaultyGraph,
    first_place,
    give_scratch_pages,
    inject,
)

from .conftest import BATCH, ask
from .harness import Scheduled

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def faulty() -> Iterator[tuple[Scheduled, FaultyGraph]]:
    """A model whose vision graph spoils its first image, before the self-check."""
    with pytest.MonkeyPatch.context() as patch:
        give_scratch_pages(patch)
        scheduled = Scheduled(max_batch_size=BATCH, image_cache_size="16MiB")
        yield scheduled, inject(patch, scheduled.self_check, first_place)


def test_answers_and_counts_are_those_of_a_good_device(
    faulty: tuple[Scheduled, FaultyGraph],
    roomy: Scheduled,
    pictures: list[Image.Image],
) -> None:
    scheduled, graph = faulty
    conversations = [ask(picture, QUESTION) for picture in pictures]
    conversations += [ask(pictures[0], pictures[5], "Which is red?"), ask("Why?")]
    expected = [roomy.alone(messages) for messages in conversations]
    # Unless the whole run is told to sacrifice an image.
    scheduled.self_check.images.runner.is_sacrificial = False
    wrong = [scheduled.alone(messages) for messages in conversations[:2]]
    assert wrong != expected[:2]

    # The self-check of a GPU runs before the first request.
    fresh = Scheduled(max_batch_size=BATCH, image_cache_size="16MiB")
    runner = fresh.self_check.images.runner
    runner._encoder = FaultyGraph(runner._encoder, first_place, graph.num_pages)
    assert fresh.self_check.run().mode is ImageMode.SACRIFICIAL
    checked = len(runner._encoder.images)
    free = fresh.blocks.free_pages
    assert fresh.answers(conversations) == expected
    stats = fresh.image_cache.stats()
    assert (stats.misses, stats.hits, stats.evictions) == (12, 2, 0)
    assert fresh.blocks.free_pages == free - 13
    assert fresh.blocks.encoded == 12
    # A run has at most three real images, and a fourth.
    assert max(images for images, _ in runner._encoder.images[checked:]) <= 4
