"""Statistics of the image cache on the server's ``/metrics`` page.

The cache belongs to the worker process and the page to the server's process.  Both map
a small file with the numbers, so that neither waits for the other and the page is
current even while the worker computes.
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


class SharedStats(Collector):
    """A Prometheus collector of image cache statistics that two processes share.

    Args:
        path: The shared file, which :meth:`temporary` creates.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            shared = mmap.mmap(file.fileno(), 8 * len(_NAMES))
        self._numbers = np.frombuffer(shared, dtype=np.int64)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[SharedStats]:
        """Creates the shared file, and removes it on exit."""
        with tempfile.NamedTemporaryFile(prefix="mllama-stats-") as file:
            file.write(bytes(8 * len(_NAMES)))
            file.flush()
            yield cls(Path(file.name))

    def write(self, stats: ImageCacheStats) -> None:
        """Publishes a snapshot."""
        self._numbers[:] = astuple(stats)

    def read(self) -> ImageCacheStats:
        """Returns the latest snapshot."""
        return ImageCacheStats(*(int(number) for number in self._numbers))

    def collect(self) -> Iterator[Any]:
        """Yields the statistics as Prometheus metrics."""
        stats = self.read()
        for name in _NAMES:
            family = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
            yield family(
                f"mllama_image_cache_{name}", _HELP[name], value=getattr(stats, name)
            )
