"""What the worker writes into the shared file, the server's process reads."""

from __future__ import annotations

from typing import Any

from mllama.image_cache.stats import ImageCacheStats
from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.server.metrics import SharedStats


def values_of(stats: SharedStats) -> dict[str, Any]:
    return {
        sample.name: (sample.labels, sample.value)
        for family in stats.collect()
        for sample in family.samples
    }


def test_statistics_and_verdict_cross_the_processes() -> None:
    with SharedStats.temporary() as server:
        worker = SharedStats(server.path)
        assert server.read_verdict() == ImageVerdict()
        assert "mllama_gpu_images" not in values_of(server)
        worker.write(ImageCacheStats(8, 7, 6, 5, 4, 3, 2))
        verdict = ImageVerdict(ImageMode.REFUSED, CheckStage.ZERO_PAGE, 4)
        worker.write_verdict(verdict)
        assert server.read() == ImageCacheStats(8, 7, 6, 5, 4, 3, 2)
        assert server.read_verdict() == verdict
        values = values_of(server)
    assert values["mllama_image_cache_bytes"] == ({}, 8)
    assert values["mllama_image_cache_evictions_total"] == ({}, 2)
    labels = {"mode": "refused", "stage": "zero_page"}
    assert values["mllama_gpu_images"] == (labels, 1)
