"""Statistics of the image cache, and the verdict on a GPU, on the ``/metrics`` page.

Both belong to the worker process, and the page to the server's process, which also
checks requests against the verdict.  Both processes map a small file with the numbers,
so that neither waits for the other and the page is current even while the worker
computes.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mllama.image_cache.stats import ImageCacheStats
from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict

_NAMES = [field.name for field in fields(ImageCacheStats)]
_COUNTERS = ("hits", "misses", "evictions")
_HELP = {
    "bytes": "Memory reserved for the keys and values of images.",
    "used_bytes": "Memory that images occupy.",
    "entries": "Runs of adjacent images in the cache.",
    "pinned": "Entries that running requests need.",
    "hits": "Requested images that were in the cache.",
    "misses": "Requested images that were encoded.",
    "evictions": "Entries evicted to make room for others.",
}

_VERDICT_NUMBERS = 3
_SHARED_BYTES = 8 * (len(_NAMES) + _VERDICT_NUMBERS)


class SharedStats(Collector):
    """A Prometheus collector of what the worker tells the server's process.

    Args:
        path: The shared file, which :meth:`temporary` creates.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            shared = mmap.mmap(file.fileno(), _SHARED_BYTES)
        numbers = np.frombuffer(shared, dtype=np.int64)
        self._numbers, self._verdict = np.split(numbers, [len(_NAMES)])

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[SharedStats]:
        """Creates the shared file, and removes it on exit."""
        with tempfile.NamedTemporaryFile(prefix="mllama-stats-") as file:
            file.write(bytes(_SHARED_BYTES))
            file.flush()
            yield cls(Path(file.name))

    def write(self, stats: ImageCacheStats) -> None:
        """Publishes a snapshot."""
        self._numbers[:] = astuple(stats)

    def read(self) -> ImageCacheStats:
        """Returns the latest snapshot."""
        return ImageCacheStats(*(int(number) for number in self._numbers))

    def write_verdict(self, verdict: ImageVerdict) -> None:
        """Publishes the result of a GPU's self-check."""
        self._verdict[:] = astuple(verdict)

    def read_verdict(self) -> ImageVerdict:
        """Returns the result of the self-check, or that none has run."""
        mode, stage, num_tiles = (int(number) for number in self._verdict)
        return ImageVerdict(ImageMode(mode), CheckStage(stage), num_tiles)

    def collect(self) -> Iterator[Any]:
        """Yields the statistics as Prometheus metrics."""
        stats = self.read()
        for name in _NAMES:
            family = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
            yield family(
                f"mllama_image_cache_{name}", _HELP[name], value=getattr(stats, name)
            )
        verdict = self.read_verdict()
        if verdict.mode is not ImageMode.UNCHECKED:
            served = GaugeMetricFamily(
                "mllama_gpu_images",
                "How images are served on the GPU; what its self-check found wrong.",
                labels=["mode", "stage"],
            )
            served.add_metric(
                [verdict.mode.name.lower(), verdict.stage.name.lower()], 1
            )
            yield served
