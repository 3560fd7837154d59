"""The image cache on the server's ``/metrics`` page.

The cache lives in the model's worker process and the page in the server's.  A small
file mapped by both carries the numbers: nothing waits for it, and the page is right
even while the worker computes.
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
    "used_bytes": "Memory that holds images.",
    "entries": "Runs of adjacent images held.",
    "pinned": "Entries that running requests need.",
    "hits": "Images of requests that were not encoded again.",
    "misses": "Images encoded.",
    "evictions": "Entries that made room for others.",
}


class SharedStats(Collector):
    """Image cache statistics that two processes share, as a Prometheus collector.

    Args:
        path: The file, see :meth:`temporary`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            shared = mmap.mmap(file.fileno(), 8 * len(_NAMES))
        self._numbers = np.frombuffer(shared, dtype=np.int64)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[SharedStats]:
        """A new file, removed in the end."""
        with tempfile.NamedTemporaryFile(prefix="mllama-stats-") as file:
            file.write(bytes(8 * len(_NAMES)))
            file.flush()
            yield cls(Path(file.name))

    def write(self, stats: ImageCacheStats) -> None:
        """Publishes a snapshot."""
        self._numbers[:] = astuple(stats)

    def read(self) -> ImageCacheStats:
        """The newest snapshot."""
        return ImageCacheStats(*(int(number) for number in self._numbers))

    def collect(self) -> Iterator[Any]:
        """The numbers as Prometheus takes them."""
        stats = self.read()
        for name in _NAMES:
            family = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
            yield family(
                f"mllama_image_cache_{name}", _HELP[name], value=getattr(stats, name)
            )
