"""Figures of the engine, which the worker tells the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mllama.image_cache.stats import ENCODE_SECONDS, ImageCacheStats
from mllama.max_compat.pipeline import pipeline_model


@dataclass(frozen=True)
class EngineStats:
    """A snapshot of the engine's figures.

    Attributes:
        image_cache: Those of the image cache.
        kv_blocks: Blocks of the KV cache.
        used_kv_blocks: Those of them that running requests use.
        encode_counts: See :class:`~mllama.image_cache.stats.EncodeTimes`.
        encode_nanoseconds: The time of all runs of the vision graph together.
    """

    image_cache: ImageCacheStats = field(default_factory=ImageCacheStats)
    kv_blocks: int = 0
    used_kv_blocks: int = 0
    encode_counts: Sequence[int] = (0,) * (len(ENCODE_SECONDS) + 1)
    encode_nanoseconds: int = 0


def engine_stats(pipeline: Any) -> EngineStats:
    """Returns the figures of a pipeline.

    Args:
        pipeline: MAX's pipeline of this package's model.
    """
    model = pipeline_model(pipeline)
    times = model.image_encoder.times
    blocks = pipeline.kv_manager.block_count()
    return EngineStats(
        model.image_cache.stats(),
        kv_blocks=blocks.total,
        used_kv_blocks=blocks.used,
        encode_counts=tuple(times.counts),
        encode_nanoseconds=times.nanoseconds,
    )
