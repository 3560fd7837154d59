"""The images of requests: reserved, laid out for a step's tokens, and released."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from max.pipelines.context import TextAndVisionContext

from mllama.config import MllamaVisionConfig
from mllama.image_cache.block_manager import Entry, ImageBlockManager, RunKey
from mllama.image_cache.context import ASPECT_RATIO_IDS
from mllama.image_cache.encoder_runner import PendingImage
from mllama.image_cache.segments import image_runs, segments
from mllama.image_cache.shared_pixels import image_pixels
from mllama.image_cache.stats import ImageCacheStats
from mllama.image_cache.storage import ImageCacheStorage, ReadSegment
from mllama.max_compat.model import ImageMetadata


class ImageCacheManager:
    """Tracks which request shows which images, and where their keys and values are.

    Args:
        config: The vision encoder's configuration.
        storage: The cache's pages and memory.
    """

    def __init__(self, config: MllamaVisionConfig, storage: ImageCacheStorage) -> None:
        self._config = config
        self.storage = storage
        self._hits = 0

    @property
    def blocks(self) -> ImageBlockManager:
        """Returns the manager of the cache's pages."""
        return self.storage.blocks

    def reserve(self, context: TextAndVisionContext) -> None:
        """Pins all images of a request until it is released, all or none.

        Raises:
            ImageCacheFullError: If others pin too many pages; nothing was pinned.
        """
        self.reserve_as(context.request_id, context)

    def reserve_as(self, request_id: Any, context: TextAndVisionContext) -> None:
        """Pins all images of a request under an id, all or none.

        Args:
            request_id: The request's id, or one under which they stay pinned longer.
            context: The request.

        Raises:
            ImageCacheFullError: If others pin too many pages; nothing was pinned.
        """
        if context.images and not self.blocks.has_pinned(request_id):
            runs = [
                [context.images[i] for i in run]
                for run in image_runs(_positions(context))
            ]
            self.blocks.reserve(
                request_id,
                {_key(run): tuple(map(self._num_tokens, run)) for run in runs},
            )

    def new_positions(self, context: TextAndVisionContext) -> list[int]:
        """Returns the positions of a step's images that the cache lacks."""
        start = context.tokens.processed_length
        end = start + context.tokens.active_length
        return [
            image.start_idx
            for image in context.images
            if start <= image.start_idx < end and self.blocks.find(_hash(image)) is None
        ]

    def limit_chunk(self, context: TextAndVisionContext, most: int) -> int:
        """Ends a prefill step before it has more than ``most`` new images.

        Other requests then get their next token before the rest of a long sequence of
        images is encoded.

        Returns:
            The number of new images that are left in the step.
        """
        new = self.new_positions(context)
        start = context.tokens.processed_length
        if len(new) > most and new[most] > start:
            context.tokens.chunk(new[most] - start)
            return most
        return len(new)

    def plan(
        self, context: TextAndVisionContext, pending: list[PendingImage]
    ) -> list[ReadSegment]:
        """Returns the segments that this step's tokens of a request attend to.

        Args:
            context: The request.
            pending: Images that their entries lack are appended.
        """
        self.reserve(context)  # Does nothing if admission has reserved them.
        start = context.tokens.processed_length
        end = start + context.tokens.active_length
        return self.plan_range(context, start, end, pending)

    def plan_range(
        self,
        context: TextAndVisionContext,
        start: int,
        end: int,
        pending: list[PendingImage],
    ) -> list[ReadSegment]:
        """Returns the segments that some tokens of a request attend to.

        Args:
            context: The request, whose images are reserved.
            start: Position of the first token.
            end: One past the position of the last token.
            pending: Images that their entries lack are appended.
        """
        reads: list[ReadSegment] = []
        for segment in segments(_positions(context), start, end):
            if not segment.run:
                reads.append(ReadSegment(segment.length, None, 0))
                continue
            entry = self.entry_of(context, segment.run)
            ids = context.extra_model_args[ASPECT_RATIO_IDS]
            for index in range(segment.images_seen):
                place, image = (entry, index), context.images[segment.run[index]]
                if entry.filled[index] or any(p.place == place for p in pending):
                    # Counted at the image's position, not at each later step.
                    self._hits += segment.start <= image.start_idx < segment.end
                    continue
                ratio_id = int(ids[segment.run[index]])
                pixels = image_pixels(context, segment.run[index])
                pending.append(PendingImage(place, pixels, ratio_id))
            tokens = entry.num_tokens(segment.images_seen)
            reads.append(ReadSegment(segment.length, entry, tokens))
        return reads

    def entry_of(self, context: TextAndVisionContext, run: Sequence[int]) -> Entry:
        """Returns the entry of one of the runs of images that a request has reserved.

        Args:
            context: The request.
            run: Indices of the request's images in the run.
        """
        key = _key([context.images[i] for i in run])
        return self.blocks.pinned(context.request_id, key)

    def release(self, request_id: Any) -> None:
        """Unpins a request's images; it may be called twice."""
        self.blocks.unpin(request_id)

    def stats(self) -> ImageCacheStats:
        """Returns a snapshot of the image cache's statistics."""
        blocks, page = self.blocks, self.storage.params.bytes_per_block
        return ImageCacheStats(
            bytes=blocks.num_pages * page,
            used_bytes=(blocks.num_pages - 1 - blocks.free_pages) * page,
            entries=len(blocks),
            pinned=blocks.pinned_entries,
            hits=self._hits + blocks.copied,
            misses=blocks.encoded,
            evictions=blocks.evictions,
        )

    def _num_tokens(self, image: Any) -> int:
        """Returns the image tokens of an image: those of its valid tiles."""
        return len(image.pixel_values) * self._config.num_patches


def _positions(context: TextAndVisionContext) -> list[int]:
    """Returns the positions of a request's images in its tokens."""
    return [image.start_idx for image in context.images]


def _key(run: Sequence[ImageMetadata]) -> RunKey:
    return tuple(_hash(image) for image in run)


def _hash(image: ImageMetadata) -> int:
    assert image.image_hash is not None, "the tokenizer hashes every image"
    return int(image.image_hash)
