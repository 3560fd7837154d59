"""Figures of engines as Prometheus metrics: of a worker, or of a cluster's replicas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from itertools import accumulate
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.utils import floatToGoString

from mllama.image_cache.stats import ENCODE_SECONDS, ImageCacheStats
from mllama.image_cache.verdict import ImageMode, ImageVerdict
from mllama.runtime.engine_stats import COUNTERS, EngineStats

_HELP: Final = {
    "bytes": "Memory reserved for the keys and values of images.",
    "used_bytes": "Memory that images occupy.",
    "entries": "Runs of adjacent images in the cache.",
    "pinned": "Entries that running requests need.",
    "hits": "Requested images that were in the cache.",
    "misses": "Requested images that were encoded.",
    "evictions": "Entries evicted to make room for others.",
}

_GUESSES: Final = {
    "num_drafts": "Times that guesses for an answer were checked.",
    "num_draft_tokens": "Guessed tokens that were checked.",
    "num_accepted_tokens": "Guessed tokens that were right.",
}
"""Metrics of the fields of ``GuessCounts``, in their order."""


def engine_metrics(stats: EngineStats) -> Iterator[Any]:
    """Yields the figures of an engine, or of several together.

    Args:
        stats: The figures.
    """
    for field in fields(ImageCacheStats):
        name = field.name
        family = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
        yield family(
            f"mllama_image_cache_{name}",
            _HELP[name],
            value=getattr(stats.image_cache, name),
        )
    yield _encode_times(stats.encode_counts, stats.encode_nanoseconds)
    for (name, text), count in zip(
        _GUESSES.items(), astuple(stats.guesses), strict=True
    ):
        yield CounterMetricFamily(f"mllama_spec_decode_{name}", text, value=count)
    yield GaugeMetricFamily(
        "mllama_kv_cache_blocks", "Blocks of the KV cache.", value=stats.kv_blocks
    )
    yield GaugeMetricFamily(
        "mllama_kv_cache_used_blocks",
        "Blocks of the KV cache that running requests use.",
        value=stats.used_kv_blocks,
    )
    yield GaugeMetricFamily(
        "mllama_kv_cache_usage_perc",
        "The part of the KV cache that running requests use; 1 is all of it.",
        value=stats.used_kv_blocks / stats.kv_blocks if stats.kv_blocks else 0,
    )


def worker_up(is_up: bool) -> Any:
    """Returns the metric that says whether there is a model's process.

    Args:
        is_up: Whether there is one.
    """
    return GaugeMetricFamily(
        "mllama_worker_up",
        "1 if the model's process runs, 0 if it doesn't.",
        value=is_up,
    )


def gpu_images(verdicts: Sequence[ImageVerdict]) -> Iterator[Any]:
    """Yields how images are served on GPUs, if one has been checked.

    Args:
        verdicts: The verdicts of engines.
    """
    family = GaugeMetricFamily(
        "mllama_gpu_images",
        "Engines by how they serve images on the GPU, and what its self-check found "
        "wrong.",
        labels=["mode", "stage"],
    )
    known = [each for each in verdicts if each.mode is not ImageMode.UNCHECKED]
    kinds = [(each.mode.name.lower(), each.stage.name.lower()) for each in known]
    for kind in sorted(set(kinds)):
        family.add_metric(list(kind), kinds.count(kind))
    if kinds:
        yield family


def _encode_times(counts: Sequence[int], nanoseconds: int) -> HistogramMetricFamily:
    bounds = [*map(floatToGoString, ENCODE_SECONDS), "+Inf"]
    return HistogramMetricFamily(
        "mllama_image_encode_seconds",
        "Time of a run of the vision encoder, which encodes up to four images.",
        buckets=list(zip(bounds, accumulate(counts), strict=True)),
        sum_value=nanoseconds / 1e9,
    )
