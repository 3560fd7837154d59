"""What the worker's process tells the server's: figures, and the verdict on a GPU.

Both belong to the worker process, and ``/metrics`` to the server's process, which also
checks requests against the verdict.  Both processes map a small file with the numbers,
so that neither waits for the other and the page is current even while the worker
computes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from prometheus_client.registry import Collector

from mllama.image_cache.stats import ENCODE_SECONDS, ImageCacheStats
from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.runtime.engine_stats import EngineStats
from mllama.runtime.speculation.guess_counts import GuessCounts
from mllama.server.observability.engine_metrics import (
    engine_metrics,
    gpu_images,
    worker_up,
)
from mllama.utils.shared_numbers import new_shared_file, shared_numbers

_NAMES = [field.name for field in fields(ImageCacheStats)]

_ENCODE_COUNTS: Final = len(ENCODE_SECONDS) + 1
_SIZES: Final = (
    len(_NAMES),  # the image cache
    2,  # blocks of the KV cache
    _ENCODE_COUNTS,
    1,  # the time of all encodings
    3,  # guesses
    3,  # the verdict
    1,  # the worker's process
)
_image_cache_figures: Final = attrgetter(*_NAMES)


class SharedStats(Collector):
    """A Prometheus collector of what the worker tells the server's process.

    Args:
        path: The shared file, which :meth:`temporary` creates.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        numbers = shared_numbers(path, sum(_SIZES))
        self._figures = numbers[: sum(_SIZES[:5])]
        parts = np.split(numbers, np.cumsum(_SIZES)[:-1])
        self._cache, self._kv, self._counts, self._time, self._guesses = parts[:5]
        self._verdict, self._worker = parts[5:]
        # Of workers that have ended.
        self._earlier = EngineStats()

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[SharedStats]:
        """Creates the shared file, and removes it on exit."""
        with new_shared_file(sum(_SIZES)) as path:
            yield cls(path)

    def start_worker(self) -> None:
        """Says that this process is the worker, from now on."""
        self._worker[0] = os.getpid()

    @property
    def worker_pid(self) -> int | None:
        """Returns the id of the worker's process, or None before there is one."""
        return int(self._worker[0]) or None

    def write(self, stats: EngineStats) -> None:
        """Publishes a snapshot."""
        # At once, since it is done in each step.
        self._figures[:] = (
            *_image_cache_figures(stats.image_cache),
            stats.kv_blocks,
            stats.used_kv_blocks,
            *stats.encode_counts,
            stats.encode_nanoseconds,
            *astuple(stats.guesses),
        )

    def read(self) -> EngineStats:
        """Returns the latest snapshot."""
        kv_blocks, used_kv_blocks = self._kv.tolist()
        return EngineStats(
            ImageCacheStats(*self._cache.tolist()),
            kv_blocks,
            used_kv_blocks,
            tuple(self._counts.tolist()),
            int(self._time[0]),
            GuessCounts(*self._guesses.tolist()),
        )

    def worker_ended(self) -> None:
        """Keeps the counts of a worker that has ended, whose caches are gone.

        Counters go on from them.  The verdict stays until the next worker has one.
        """
        self._earlier += self.read().counters()
        self.write(EngineStats())
        self._worker[0] = 0

    def write_verdict(self, verdict: ImageVerdict) -> None:
        """Publishes the result of a GPU's self-check."""
        self._verdict[:] = astuple(verdict)

    def read_verdict(self) -> ImageVerdict:
        """Returns the result of the self-check, or that none has run."""
        mode, stage, num_tiles = (int(number) for number in self._verdict)
        return ImageVerdict(ImageMode(mode), CheckStage(stage), num_tiles)

    def collect(self) -> Iterator[Any]:
        """Yields the statistics as Prometheus metrics."""
        yield from engine_metrics(self.read() + self._earlier)
        yield worker_up(_runs(self.worker_pid))
        yield from gpu_images([self.read_verdict()])


def _runs(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
