"""Fills the image cache: encodes images with the vision graph, or copies them."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from max import tree
from max.driver import Buffer
from max.engine import Model

from mllama.config import MllamaVisionConfig
from mllama.image_cache.block_manager import Entry
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
        self._pixel_table = Buffer.from_numpy(pixel_table).to(storage.devices[0])
        self._signals = signals

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
        for tiles, group in by_tiles.items():
            for first in range(0, len(group), MAX_IMAGES_PER_CALL):
                self._encode(group[first : first + MAX_IMAGES_PER_CALL], tiles)
        for image in pending:
            entry, index = image.place
            if not entry.filled[index]:
                source = blocks.find(image.hash)
                assert source is not None
                self._storage.copy(*source, entry, index)
                blocks.fill(entry, index, is_copy=True)

    def _encode(self, images: Sequence[PendingImage], tiles: int) -> None:
        """Runs the vision graph on images with the same number of valid tiles."""
        started = time.perf_counter()
        vision, device = self._config, self._storage.devices[0]
        pixels = np.stack([image.pixel_values for image in images])
        patches = np.arange(
            vision.max_num_tiles * vision.padded_patches, dtype=np.int64
        )
        is_real = (patches < tiles * vision.padded_patches) & (
            patches % vision.padded_patches < vision.num_patches
        )
        ids = np.array([image.aspect_ratio_id for image in images], dtype=np.int64)
        writes = self._storage.write_inputs(
            [image.place for image in images], tiles * vision.num_patches
        )
        self._encoder.execute(
            Buffer.from_numpy(pixels).to(device),
            self._pixel_table,
            *(
                Buffer.from_numpy(array).to(device)
                for array in (ids, patches[is_real], patches[~is_real])
            ),
            *tree.leaves(writes),
            *self._signals,
        )
        for image in images:
            self._storage.blocks.fill(*image.place)
        logger.debug(
            "encoded %d image(s) of %d tile(s) in %.2f s",
            len(images),
            tiles,
            time.perf_counter() - started,
        )
