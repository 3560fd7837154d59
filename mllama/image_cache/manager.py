"""The images of requests: reserved, laid out for a step's rows, encoded, released."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from max.driver import Buffer
from max.engine import Model
from max.pipelines.context import TextAndVisionContext

from mllama.config import MllamaVisionConfig
from mllama.image_cache.block_manager import ImageBlockManager, RunKey
from mllama.image_cache.context import ASPECT_RATIO_IDS
from mllama.image_cache.encoder_runner import ImageEncoderRunner, PendingImage
from mllama.image_cache.segments import image_runs, segments
from mllama.image_cache.stats import ImageCacheStats
from mllama.image_cache.storage import ImageCacheStorage, ReadSegment
from mllama.max_compat.model import ImageMetadata


class ImageCacheManager:
    """Who shows which images, and where their keys and values are.

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
        self.store = store
        self._encoding = ImageEncoderRunner(config, store, encoder, signals)
        self.admits = False
        """Whether requests reserve their images before they come to :meth:`plan`."""
        self._hits = 0

    @property
    def pool(self) -> ImageBlockManager:
        """Which pages hold which images."""
        return self.store.pool

    def reserve(self, context: TextAndVisionContext) -> None:
        """Pins all images of a request until it is released, all or none.

        Raises:
            ImageCacheFullError: If others pin too much of the pool; nothing was pinned.
        """
        if context.images and not self.pool.has_pinned(context.request_id):
            shown = [
                [context.images[i] for i in run]
                for run in image_runs(_positions(context))
            ]
            self.pool.reserve(
                context.request_id,
                {_key(run): tuple(map(self._rows, run)) for run in shown},
            )

    def new_places(self, context: TextAndVisionContext) -> list[int]:
        """Places in the tokens of a step's images that the pool lacks."""
        start = context.tokens.processed_length
        end = start + context.tokens.active_length
        return [
            image.start_idx
            for image in context.images
            if start <= image.start_idx < end and self.pool.find(_hash(image)) is None
        ]

    def limit_chunk(self, context: TextAndVisionContext, most: int) -> int:
        """Ends a step of reading a prompt before its new images are more than ``most``.

        Others then get their next token before the rest of a long row of images.

        Returns:
            How many new images are left in the step.
        """
        new = self.new_places(context)
        start = context.tokens.processed_length
        if len(new) > most and new[most] > start:
            context.tokens.chunk(new[most] - start)
            return most
        return len(new)

    def plan(
        self, context: TextAndVisionContext, pending: list[PendingImage]
    ) -> list[ReadSegment]:
        """What this step's rows of a request read.

        Appends the images that their entries lack to ``pending``.
        """
        if not self.admits:
            self.reserve(context)
        start = context.tokens.processed_length
        end = start + context.tokens.active_length
        reads: list[ReadSegment] = []
        for segment in segments(_positions(context), start, end):
            if not segment.run:
                reads.append(ReadSegment(segment.length, None, 0))
                continue
            key = _key([context.images[i] for i in segment.run])
            entry = self.pool.pinned(context.request_id, key)
            ids = context.extra_model_args[ASPECT_RATIO_IDS]
            for index in range(segment.images_seen):
                place, image = (entry, index), context.images[segment.run[index]]
                if entry.filled[index] or any(p.place == place for p in pending):
                    # Counted where the image stands, not where later rows see it.
                    self._hits += segment.start <= image.start_idx < segment.end
                    continue
                ratio_id = int(ids[segment.run[index]])
                pending.append(PendingImage(place, image.pixel_values, ratio_id))
            reads.append(
                ReadSegment(segment.length, entry, entry.rows(segment.images_seen))
            )
        return reads

    def encode(self, pending: Sequence[PendingImage]) -> None:
        """Stores the images that a planned step lacks."""
        self._encoding.store_all(pending)

    def release(self, request_id: Any) -> None:
        """Unpins a request's images; may be called twice."""
        self.pool.unpin(request_id)

    def stats(self) -> ImageCacheStats:
        """What the image pool holds and has done."""
        pool, page = self.pool, self.store.params.bytes_per_block
        return ImageCacheStats(
            bytes=pool.num_pages * page,
            used_bytes=(pool.num_pages - 1 - pool.free_pages) * page,
            entries=len(pool),
            pinned=pool.pinned_entries,
            hits=self._hits + self._encoding.copied,
            misses=self._encoding.encoded,
            evictions=pool.evictions,
        )

    def _rows(self, image: Any) -> int:
        """Vision tokens of an image: those of its valid tiles."""
        return len(image.pixel_values) * self._config.num_patches


def _positions(context: TextAndVisionContext) -> list[int]:
    """Places of a request's images in its tokens."""
    return [image.start_idx for image in context.images]


def _key(run: Sequence[ImageMetadata]) -> RunKey:
    return tuple(_hash(image) for image in run)


def _hash(image: ImageMetadata) -> int:
    assert image.image_hash is not None, "the tokenizer hashes every image"
    return int(image.image_hash)
