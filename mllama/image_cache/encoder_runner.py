"""Images that the pool lacks go through the vision graph, or are copied within it."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from max import tree
from max.driver import Buffer
from max.engine import Model

from mllama.config import MllamaVisionConfig
from mllama.image_cache.block_manager import Entry
from mllama.image_cache.storage import ImageCacheStorage

logger = logging.getLogger("mllama")

MAX_IMAGES_PER_CALL = 4
"""Images encoded in one run of the vision graph: its activations grow with them."""


@dataclass(frozen=True)
class PendingImage:
    """An image whose keys and values are not in the pool yet."""

    place: tuple[Entry, int]
    """The entry, and the image's index there."""
    pixel_values: np.ndarray
    """float32 ``[valid tiles, channels, size, size]``."""
    aspect_ratio_id: int

    @property
    def hash(self) -> int:
        """The content's."""
        entry, index = self.place
        return entry.key[index]


class ImageEncoderRunner:
    """Fills entries of the image pool.

    Args:
        config: The vision encoder's.
        store: The pool and its memory.
        encoder: The compiled vision graph.
        signals: Its inputs for collectives.
    """

    def __init__(
        self,
        config: MllamaVisionConfig,
        store: ImageCacheStorage,
        encoder: Model,
        signals: Sequence[Buffer],
    ) -> None:
        self._config = config
        self._store = store
        self._encoder = encoder
        self._signals = signals
        self.encoded = 0
        """Images that went through the vision graph so far."""
        self.copied = 0
        """Images copied from another entry so far."""

    def store_all(self, pending: Sequence[PendingImage]) -> None:
        """Stores what is pending: copied if the pool has it elsewhere, else encoded."""
        pool = self._store.pool
        missing: dict[int, PendingImage] = {}
        for image in pending:
            if pool.find(image.hash) is None:
                missing.setdefault(image.hash, image)
        by_tiles: dict[int, list[PendingImage]] = defaultdict(list)
        for image in missing.values():
            by_tiles[len(image.pixel_values)].append(image)
        for tiles, group in by_tiles.items():
            for first in range(0, len(group), MAX_IMAGES_PER_CALL):
                self._encode(group[first : first + MAX_IMAGES_PER_CALL], tiles)
        for image in pending:
            entry, index = image.place
            if not entry.filled[index]:
                source = pool.find(image.hash)
                assert source is not None
                self._store.copy(*source, entry, index)
                pool.fill(entry, index)
                self.copied += 1

    def _encode(self, images: Sequence[PendingImage], tiles: int) -> None:
        """Runs the vision graph on images of one number of valid tiles."""
        started = time.perf_counter()
        vision, device = self._config, self._store.devices[0]
        side = vision.image_size
        pixels = np.zeros(
            (len(images), vision.max_num_tiles, vision.num_channels, side, side),
            dtype=np.float32,
        )
        for target, image in zip(pixels, images, strict=True):
            target[:tiles] = image.pixel_values
        rows = np.arange(vision.max_num_tiles * vision.padded_patches, dtype=np.int64)
        is_real = (rows < tiles * vision.padded_patches) & (
            rows % vision.padded_patches < vision.num_patches
        )
        ids = np.array([image.aspect_ratio_id for image in images], dtype=np.int64)
        writes = self._store.write_inputs(
            [image.place for image in images],
            tiles * vision.num_patches,
        )
        self._encoder.execute(
            *(
                Buffer.from_numpy(array).to(device)
                for array in (pixels, ids, rows[is_real], rows[~is_real])
            ),
            *tree.leaves(writes),
            *self._signals,
        )
        for image in images:
            self._store.pool.fill(*image.place)
        self.encoded += len(images)
        logger.debug(
            "encoded %d image(s) of %d tile(s) in %.2f s",
            len(images),
            tiles,
            time.perf_counter() - started,
        )
