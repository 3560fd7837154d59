"""Which images a run of the vision graph gets, and where it stores them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllama.image_cache.encoder_runner import ImageEncoderRunner, PendingImage
from mllama.image_cache.storage import ImageCacheStorage

from .small_cache import small_image_cache

CONFIG: Any = SimpleNamespace(max_num_tiles=4, padded_patches=8, num_patches=5)


class Graph:
    """A vision graph that records its inputs."""

    def __init__(self) -> None:
        self.runs: list[list[np.ndarray]] = []

    def execute(self, *inputs: Any) -> list[Any]:
        self.runs.append([value.to_numpy().copy() for value in inputs])
        return []


@pytest.fixture
def storage() -> ImageCacheStorage:
    return small_image_cache(20, scratch_pages=2)


def pending(
    storage: ImageCacheStorage, tiles: list[int], first: int = 1
) -> list[PendingImage]:
    """Returns images with the given tiles, each in an entry of its own."""
    keys = {(first + i,): (5 * count,) for i, count in enumerate(tiles)}
    storage.blocks.reserve("request", keys)
    return [
        PendingImage(
            (storage.blocks.pinned("request", key), 0),
            np.full((tokens[0] // 5, 1, 2, 2), key[0], np.uint8),
            aspect_ratio_id=key[0] + 10,
        )
        for key, tokens in keys.items()
    ]


def runner_of(storage: ImageCacheStorage) -> tuple[ImageEncoderRunner, Graph]:
    graph: Any = Graph()
    table = np.zeros((1, 256), np.float32)
    return ImageEncoderRunner(CONFIG, table, storage, graph, []), graph


def test_four_images_a_run(storage: ImageCacheStorage) -> None:
    runner, graph = runner_of(storage)
    images = pending(storage, [2] * 5 + [1])
    runner.store(images)
    assert [run[2].tolist() for run in graph.runs] == [[11, 12, 13, 14], [15], [16]]
    assert storage.blocks.encoded == 6
    assert all(image.place[0].filled == [True] for image in images)


def test_a_sacrificial_image_precedes_three_others(storage: ImageCacheStorage) -> None:
    runner, graph = runner_of(storage)
    runner.is_sacrificial = True
    images = pending(storage, [2] * 5 + [1])
    runner.store(images)
    runs = graph.runs
    assert [run[2].tolist() for run in runs] == [
        [11, 11, 12, 13],
        [14, 14, 15],
        [16, 16],
    ]
    for run in runs:
        pixels, ids, (_, starts, table) = run[0], run[2], run[5:8]
        assert len(pixels) == len(ids) == len(starts) == len(table)
        np.testing.assert_array_equal(pixels[0], pixels[1])
        assert table[0, 0] == storage.scratch.start
        assert np.all(table[1:, 0] < storage.scratch.start)
        assert not starts.any()
        assert run[-1].tolist() == [i * len(pixels[0]) * 5 for i in range(len(ids) + 1)]
    # The cache knows nothing of it.
    assert storage.blocks.encoded == 6
    assert len(storage.blocks) == 6
    assert storage.blocks.find(0) is None


def test_a_cache_without_scratch_pages_has_no_sacrificial_image() -> None:
    without = small_image_cache(20)
    runner, _ = runner_of(without)
    with pytest.raises(AssertionError, match="no scratch pages"):
        runner.run(pending(without, [1]), is_sacrificial=True)
