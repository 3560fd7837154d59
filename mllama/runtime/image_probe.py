"""Runs of the vision graph on made-up pictures, and everything that they store.

The self-check (:mod:`mllama.runtime.gpu_self_check`) judges what a run stored.  A
search for the cause of a fault can use the same runs::

    probe = ImageProbe(model.image_encoder, model.image_cache.storage, vision_config)
    a, b = noise_picture(vision_config, 4, 0), noise_picture(vision_config, 4, 1)
    run = probe.run([a, a, b], is_sacrificial=False)
    spread_difference(run.images[0].values, run.images[1].values)

Nothing here passes through the cache's block manager: its counters don't change, and no
request may run meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mllama.config import MllamaVisionConfig
from mllama.image_cache.block_manager import ZERO_PAGE, Entry
from mllama.image_cache.encoder_runner import ImageEncoderRunner, PendingImage
from mllama.image_cache.page_contents import download_pages, fill_pages
from mllama.image_cache.storage import ImageCacheStorage

SENTINEL = -24576.0
"""The value that pages have before a run.  bfloat16 represents it exactly, and no key
or value is so large."""

MAX_SAMPLED_PAGES = 6
"""Pages of an image that the self-check downloads."""

_GRAINS = (8, 64)
"""Squares along each side of a noise picture, from coarse to fine: a model tells
pictures apart by coarse noise, and single patches by fine noise."""


@dataclass(frozen=True)
class NoisePicture:
    """A picture of fixed noise.

    Attributes:
        pixel_values: uint8 ``[tiles, channels, tile size, tile size]``.
        aspect_ratio_id: The arrangement of the tiles, from 1.
    """

    pixel_values: npt.NDArray[np.uint8]
    aspect_ratio_id: int

    @property
    def num_tiles(self) -> int:
        """Returns the number of tiles."""
        return len(self.pixel_values)


def noise_picture(
    config: MllamaVisionConfig, num_tiles: int, seed: int
) -> NoisePicture:
    """Returns a picture that depends on its seed alone, on every machine.

    Args:
        config: The vision encoder's configuration.
        num_tiles: The number of tiles.
        seed: Equal seeds give equal pictures in separate arrays.  Consecutive seeds
            have different aspect ratios, if there are several of so many tiles.
    """
    ratios = [
        index + 1
        for index, (width, height) in enumerate(config.supported_aspect_ratios)
        if width * height == num_tiles
    ]
    size, channels = config.image_size, config.num_channels
    pixels = np.zeros((num_tiles, channels, size, size), np.uint16)
    for grains in _GRAINS:
        shape = (num_tiles, channels, grains, grains)
        # NumPy promises that these numbers never change.
        raw = np.random.PCG64([seed, grains]).random_raw(int(np.prod(shape)))
        noise = (raw % 256).astype(np.uint16).reshape(shape)
        repeats = -(-size // grains)
        noise = noise.repeat(repeats, axis=2).repeat(repeats, axis=3)
        pixels += noise[:, :, :size, :size]
    return NoisePicture(
        (pixels // len(_GRAINS)).astype(np.uint8), ratios[seed % len(ratios)]
    )


@dataclass(frozen=True)
class StoredImage:
    """What a run stored of an image.

    Attributes:
        values: float32 ``[2, layers, sampled tokens, kv heads, head dim]``: keys, then
            values.
        tokens: The sampled tokens' indices.
        page_rest: The same of the rest of its last page, which no image token uses.
    """

    values: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.int64]
    page_rest: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ProbedRun:
    """What a run left in the image cache.

    Attributes:
        images: The images, in the order of the run, without a sacrificial one.
        sacrificed: The sacrificial image, which is at the first place; None if there
            was none.
        neighbors: The unused pages before, between and after the images and the scratch
            pages, ``[pages, 2, layers, page size, kv heads, head dim]``, which had
            :data:`SENTINEL`.
        zero_page: The page of zeros, of the same shape with one page.
    """

    images: list[StoredImage]
    sacrificed: StoredImage | None
    neighbors: npt.NDArray[np.float32]
    zero_page: npt.NDArray[np.float32]


class ImageProbe:
    """Runs the vision graph on pictures and downloads what it stored.

    Args:
        runner: Runs the vision graph.
        storage: The image cache, of which no request may use a page.
        config: The vision encoder's configuration.
        sampled_pages: Pages of an image that are downloaded at most, spread evenly from
            its first to its last.
    """

    def __init__(
        self,
        runner: ImageEncoderRunner,
        storage: ImageCacheStorage,
        config: MllamaVisionConfig,
        *,
        sampled_pages: int = MAX_SAMPLED_PAGES,
    ) -> None:
        self.runner = runner
        self.storage = storage
        self.config = config
        self._sampled_pages = sampled_pages
        self._touched: set[int] = {ZERO_PAGE}

    def entries(self, num_tiles: int, count: int) -> list[Entry]:
        """Returns places for images, with an unused page before and after each.

        Args:
            num_tiles: Tiles of each image.
            count: The number of images.
        """
        tokens = num_tiles * self.config.num_patches
        size = self.storage.blocks.pages_for([tokens])
        entries, first = [], ZERO_PAGE + 2
        for index in range(count):
            pages = tuple(range(first, first + size))
            entries.append(Entry((index,), pages, (tokens,), [False]))
            first += size + 1
        assert first <= self.storage.blocks.num_pages, "the image cache is too small"
        return entries

    def run(
        self, pictures: Sequence[NoisePicture], *, is_sacrificial: bool
    ) -> ProbedRun:
        """Fills all pages around with :data:`SENTINEL`, and runs the vision graph.

        Args:
            pictures: Pictures with the same number of tiles.
            is_sacrificial: Whether a sacrificial image precedes them.
        """
        entries = self.entries(pictures[0].num_tiles, len(pictures))
        used = {page for entry in entries for page in entry.pages}
        scratch = self.storage.scratch
        # The last page of requests is the one before the scratch pages.
        around = {*range(ZERO_PAGE + 1, max(used) + 2), scratch.start - 1, *scratch}
        self._touched |= around
        fill_pages(self.storage, around, SENTINEL)
        self.runner.run(
            [
                PendingImage((entry, 0), picture.pixel_values, picture.aspect_ratio_id)
                for entry, picture in zip(entries, pictures, strict=True)
            ],
            is_sacrificial=is_sacrificial,
        )
        sacrificed = None
        if is_sacrificial:
            sacrificed = self.storage.scratch_entry(entries[0].num_tokens(1))
            used.update(sacrificed.pages)
        return ProbedRun(
            [self._stored(entry) for entry in entries],
            self._stored(sacrificed) if sacrificed else None,
            download_pages(self.storage, sorted(around - used)),
            download_pages(self.storage, [ZERO_PAGE]),
        )

    def clear(self) -> None:
        """Writes zeros to all pages that the runs used, as before the first of them."""
        fill_pages(self.storage, self._touched, 0)

    def _stored(self, entry: Entry) -> StoredImage:
        size = self.storage.params.page_size
        count = min(len(entry.pages), self._sampled_pages)
        sampled = np.linspace(0, len(entry.pages) - 1, count).round().astype(int)
        content = download_pages(self.storage, [entry.pages[i] for i in sampled])
        # [2, layers, sampled pages * page size, kv heads, head dim]
        rows = np.concatenate(list(content), axis=2)
        tokens = (sampled[:, None] * size + np.arange(size)).reshape(-1)
        is_used = tokens < entry.num_tokens(1)
        return StoredImage(rows[:, :, is_used], tokens[is_used], rows[:, :, ~is_used])


def spread_difference(
    actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> float:
    """Returns the largest root mean squared difference of a layer's keys or values.

    Args:
        actual: ``[2, layers, tokens, kv heads, head dim]``, finite.
        expected: The same of another image.

    Returns:
        The difference in units of their standard deviation.
    """
    squares = ((actual - expected) ** 2).mean(axis=(-3, -2, -1))
    return float((np.sqrt(squares) / _spread(expected)).max())


def worst_token_difference(
    actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> float:
    """Returns :func:`spread_difference` of the token that differs most."""
    squares = ((actual - expected) ** 2).mean(axis=(-2, -1))
    return float((np.sqrt(squares) / _spread(expected)[..., None]).max())


def _spread(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns the standard deviation of each layer's keys and values, never zero."""
    spread: npt.NDArray[np.float32] = values.std(axis=(-3, -2, -1))
    return np.maximum(spread, np.finfo(np.float32).tiny)
