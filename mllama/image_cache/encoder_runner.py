"""Fills the image cache: encodes images with the vision graph, or copies them."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from max import tree
from max.driver import Buffer
from max.engine import Model

from mllama.config import MllamaVisionConfig
from mllama.image_cache.block_manager import Entry
from mllama.image_cache.stats import EncodeTimes
from mllama.image_cache.storage import ImageCacheStorage

logger = logging.getLogger("mllama")

MAX_IMAGES_PER_CALL = 4
"""Images in one run of the vision graph: its activations grow with them."""


@dataclass(frozen=True)
class PendingImage:
    """An image whose keys and values are not in the cache yet.

    Attributes:
        place: The entry, and the image's index in its run.
        pixel_values: uint8 ``[valid tiles, channels, tile size, tile size]``.
        aspect_ratio_id: The arrangement of the tiles, from 1.
    """

    place: tuple[Entry, int]
    pixel_values: npt.NDArray[np.uint8]
    aspect_ratio_id: int

    @property
    def hash(self) -> int:
        """Returns the hash of the image's content."""
        entry, index = self.place
        return entry.key[index]


class ImageEncoderRunner:
    """Fills entries of the image cache, with the vision graph or from other entries.

    Args:
        config: The vision encoder's configuration.
        pixel_table: float32 ``[channels, 256]``, the normalized values of pixels.
        storage: The cache's pages and memory.
        encoder: The compiled vision graph.
        signals: The graph's inputs for collectives.

    Attributes:
        is_sacrificial: Whether each run of the vision graph gets a first image whose
            result is dropped, see :meth:`run`.  It needs scratch pages.
        times: How long runs for requests took.  A GPU may still compute when one ends.
    """

    def __init__(
        self,
        config: MllamaVisionConfig,
        pixel_table: npt.NDArray[np.float32],
        storage: ImageCacheStorage,
        encoder: Model,
        signals: Sequence[Buffer],
    ) -> None:
        self._config = config
        self._storage = storage
        self._encoder = encoder
        self._pixel_table = storage.uploads.copy(pixel_table, storage.devices[0])
        self._signals = signals
        self.is_sacrificial = False
        self.times = EncodeTimes()

    def store(self, pending: Sequence[PendingImage]) -> None:
        """Stores images: copied if another entry contains them, else encoded."""
        blocks = self._storage.blocks
        missing: dict[int, PendingImage] = {}
        for image in pending:
            if blocks.find(image.hash) is None:
                missing.setdefault(image.hash, image)
        by_tiles: dict[int, list[PendingImage]] = defaultdict(list)
        for image in missing.values():
            by_tiles[len(image.pixel_values)].append(image)
        # With a sacrificial image, a run has as many images as without.
        size = MAX_IMAGES_PER_CALL - self.is_sacrificial
        for tiles, group in by_tiles.items():
            for first in range(0, len(group), size):
                self._encode(group[first : first + size], tiles)
        for image in pending:
            entry, index = image.place
            if not entry.filled[index]:
                source = blocks.find(image.hash)
                assert source is not None
                self._storage.copy(*source, entry, index)
                blocks.fill(entry, index, is_copy=True)

    def _encode(self, images: Sequence[PendingImage], tiles: int) -> None:
        """Encodes images with the same number of valid tiles, and records it."""
        started = time.perf_counter()
        self.run(images, is_sacrificial=self.is_sacrificial)
        for image in images:
            self._storage.blocks.fill(*image.place)
        seconds = time.perf_counter() - started
        self.times.add(seconds)
        logger.debug(
            "encoded %d image(s) of %d tile(s) in %.2f s", len(images), tiles, seconds
        )

    def run(self, images: Sequence[PendingImage], *, is_sacrificial: bool) -> None:
        """Runs the vision graph once, which stores the images at their places.

        Args:
            images: Images with the same number of valid tiles.
            is_sacrificial: Whether a copy of the first image precedes them, which is
                stored in the scratch pages.  On a GPU the first image of a run may come
                out wrong (``docs/gpu.md``).
        """
        vision, device = self._config, self._storage.devices[0]
        tiles = len(images[0].pixel_values)
        tokens = tiles * vision.num_patches
        if is_sacrificial:
            scratch = self._storage.scratch_entry(tokens)
            images = [replace(images[0], place=(scratch, 0)), *images]
        pixels = np.stack([image.pixel_values for image in images])
        patches = np.arange(
            vision.max_num_tiles * vision.padded_patches, dtype=np.int64
        )
        is_real = (patches < tiles * vision.padded_patches) & (
            patches % vision.padded_patches < vision.num_patches
        )
        ids = np.array([image.aspect_ratio_id for image in images], dtype=np.int64)
        writes = self._storage.write_inputs([image.place for image in images], tokens)
        upload = self._storage.uploads.copy
        inputs = [
            upload(pixels, device),
            self._pixel_table,
            *(upload(a, device) for a in (ids, patches[is_real], patches[~is_real])),
            *tree.leaves(writes),
            *self._signals,
        ]
        outputs = self._encoder.execute(*inputs)
        self._storage.uploads.keep(inputs, outputs)
