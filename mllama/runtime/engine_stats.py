"""Figures of the engine, which the worker tells the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from mllama.image_cache.stats import ENCODE_SECONDS, ImageCacheStats
from mllama.runtime.speculation.guess_counts import GuessCounts


@dataclass(frozen=True)
class EngineStats:
    """A snapshot of the engine's figures.

    Attributes:
        image_cache: Those of the image cache.
        kv_blocks: Blocks of the KV cache.
        used_kv_blocks: Those of them that running requests use.
        encode_counts: See :class:`~mllama.image_cache.stats.EncodeTimes`.
        encode_nanoseconds: The time of all runs of the vision graph together.
        guesses: What was guessed since the start.
    """

    image_cache: ImageCacheStats = field(default_factory=ImageCacheStats)
    kv_blocks: int = 0
    used_kv_blocks: int = 0
    encode_counts: Sequence[int] = (0,) * (len(ENCODE_SECONDS) + 1)
    encode_nanoseconds: int = 0
    guesses: GuessCounts = field(default_factory=GuessCounts)

    def __add__(self, other: EngineStats) -> EngineStats:
        """Returns the figures of two engines together."""
        pairs = zip(self.encode_counts, other.encode_counts, strict=True)
        return EngineStats(
            ImageCacheStats(
                **{
                    name: getattr(self.image_cache, name)
                    + getattr(other.image_cache, name)
                    for name in _IMAGE_CACHE
                }
            ),
            kv_blocks=self.kv_blocks + other.kv_blocks,
            used_kv_blocks=self.used_kv_blocks + other.used_kv_blocks,
            encode_counts=tuple(mine + its for mine, its in pairs),
            encode_nanoseconds=self.encode_nanoseconds + other.encode_nanoseconds,
            guesses=self.guesses + other.guesses,
        )

    def counters(self) -> EngineStats:
        """Returns the figures that only grow, and 0 for those of this moment.

        They stay true of an engine that has ended.
        """
        return EngineStats(
            ImageCacheStats(
                **{name: getattr(self.image_cache, name) for name in COUNTERS}
            ),
            encode_counts=self.encode_counts,
            encode_nanoseconds=self.encode_nanoseconds,
            guesses=self.guesses,
        )


_IMAGE_CACHE: Final = tuple(each.name for each in fields(ImageCacheStats))

COUNTERS: Final = ("hits", "misses", "evictions")
"""Figures of the image cache that only grow."""


def engine_stats(pipeline: Any, guesses: GuessCounts) -> EngineStats:
    """Returns the figures of a pipeline.

    Args:
        pipeline: MAX's pipeline of this package's model.
        guesses: What was guessed since the start.
    """
    # Who only reads figures, elsewhere, needs nothing of MAX.
    from mllama.max_compat.pipeline import pipeline_model

    model = pipeline_model(pipeline)
    times = model.image_encoder.times
    blocks = pipeline.kv_manager.block_count()
    return EngineStats(
        model.image_cache.stats(),
        kv_blocks=blocks.total,
        used_kv_blocks=blocks.used,
        encode_counts=tuple(times.counts),
        encode_nanoseconds=times.nanoseconds,
        guesses=guesses,
    )
