"""The probe downloads what a run stored, on images of many pages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllama.image_cache.storage import ImageCacheStorage
from mllama.max_model.memory_planner import self_check_pages
from mllama.runtime.image_probe import (
    MAX_SAMPLED_PAGES,
    SENTINEL,
    ImageProbe,
    noise_picture,
)
from tests.image_cache.small_cache import small_image_cache

CONFIG: Any = SimpleNamespace(
    max_num_tiles=4,
    num_patches=401,
    image_size=20,
    num_channels=3,
    supported_aspect_ratios=[(1, 1), (1, 4), (2, 2), (4, 1)],
)
PER_IMAGE = -(-4 * 401 // 128)


class Runner:
    """Stores each token's index, and its image's number as the last value."""

    def __init__(self, storage: ImageCacheStorage) -> None:
        self.storage = storage
        self.sacrificed = 0

    def run(self, images: Any, *, is_sacrificial: bool) -> None:
        pages = self.storage.pages[0].to_numpy()
        places = [(image.place[0], number + 1) for number, image in enumerate(images)]
        if is_sacrificial:
            tokens = places[0][0].token_ends[0]
            places.append((self.storage.scratch_entry(tokens), 99))
            self.sacrificed += 1
        for entry, number in places:
            for token in range(entry.token_ends[0]):
                row = pages[entry.pages[token // 128], :, :, token % 128]
                row[:] = token
                row[..., -1] = number


@pytest.fixture
def probe() -> ImageProbe:
    pages = self_check_pages(PER_IMAGE)
    storage = small_image_cache(pages, scratch_pages=PER_IMAGE + 1, layers=2)
    runner: Any = Runner(storage)
    return ImageProbe(runner, storage, CONFIG)


@pytest.mark.parametrize("num_tiles", [1, 4])
@pytest.mark.parametrize("is_sacrificial", [False, True])
def test_samples_of_each_image(
    probe: ImageProbe, num_tiles: int, is_sacrificial: bool
) -> None:
    pictures = [noise_picture(CONFIG, num_tiles, seed) for seed in range(3)]
    run = probe.run(pictures, is_sacrificial=is_sacrificial)
    tokens = num_tiles * 401
    for number, image in enumerate(run.images):
        assert image.values.shape == (2, 2, len(image.tokens), 1, 16)
        assert {0, tokens - 1} <= set(image.tokens.tolist())
        assert len(image.tokens) <= MAX_SAMPLED_PAGES * 128
        np.testing.assert_array_equal(image.values[1, 1, :, 0, 0], image.tokens)
        assert np.all(image.values[..., -1] == number + 1)
        assert image.page_rest.shape[2] == -tokens % 128
        assert np.all(image.page_rest == SENTINEL)
    assert (run.sacrificed is not None) == is_sacrificial
    if run.sacrificed is not None:
        assert np.all(run.sacrificed.values[..., -1] == 99)
    assert np.all(run.neighbors == SENTINEL)
    # Around three images, the last page of requests, and the rest of the scratch pages.
    pages = -(-tokens // 128)
    scratch = PER_IMAGE + 1 - is_sacrificial * pages
    assert len(run.neighbors) == 4 + scratch + (num_tiles == 1)
    assert not run.zero_page.any()
    probe.clear()
    assert not probe.storage.pages[0].to_numpy().any()


def test_all_pages_on_request(probe: ImageProbe) -> None:
    whole = ImageProbe(probe.runner, probe.storage, CONFIG, sampled_pages=PER_IMAGE)
    run = whole.run([noise_picture(CONFIG, 4, 0)], is_sacrificial=False)
    assert run.images[0].tokens.tolist() == list(range(4 * 401))


def test_each_stray_write_around_is_seen(probe: ImageProbe) -> None:
    pages = probe.storage.pages[0].to_numpy()
    run, storage = probe.runner.run, probe.storage
    entries = probe.entries(4, 3)
    outside = [entries[0].pages[0] - 1, *(e.pages[-1] + 1 for e in entries)]
    outside += [storage.scratch.start - 1, storage.scratch.stop - 1]
    pictures = [noise_picture(CONFIG, 4, 0)] * 3
    for page in outside:

        def straying(*arguments: Any, page: int = page, **options: Any) -> None:
            run(*arguments, **options)
            pages[page, 1, 1, 127, 0, 15] = 0

        probe.runner.run = straying  # type: ignore[method-assign]
        stored = probe.run(pictures, is_sacrificial=True)
        assert np.count_nonzero(stored.neighbors != SENTINEL) == 1, page


def test_a_cache_that_is_too_small_is_refused(probe: ImageProbe) -> None:
    with pytest.raises(AssertionError, match="too small"):
        probe.entries(4, 4)
