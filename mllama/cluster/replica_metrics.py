"""What the replicas tell about themselves, as metrics of a front."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mllama.cluster.messages import ReplicaFigures
from mllama.runtime.engine_stats import EngineStats
from mllama.server.observability.engine_metrics import (
    engine_metrics,
    gpu_images,
    worker_up,
)
from mllama.server.observability.process_memory import MemorySizes
from mllama.utils.event_loops import background_task

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("mllama")

_PERIOD_SECONDS: Final = 2.0
"""Pause between two questions to all replicas."""

_TIMEOUT_SECONDS: Final = 10.0
"""How long they may take to answer."""

_ENDED: Final = 1000
"""Replicas that have ended whose counters are kept apart, should one come back."""


class ReplicaMetrics(Collector):
    """A Prometheus collector of the figures of all replicas together.

    Counters go on when a replica ends; gauges are those of the replicas that run.

    Args:
        running: Returns the number of replicas that run.
    """

    def __init__(self, running: Callable[[], int]) -> None:
        self._running = running
        # A thread makes the page of metrics.
        self._lock = threading.Lock()
        self._latest: dict[str, ReplicaFigures] = {}
        self._ended: dict[str, EngineStats] = {}
        self._earlier = EngineStats()

    def note(self, figures: ReplicaFigures) -> None:
        """Keeps what a replica tells about itself."""
        with self._lock:
            self._note(figures)

    def _note(self, figures: ReplicaFigures) -> None:
        self._latest[figures.replica] = figures
        self._ended.pop(figures.replica, None)

    def update(self, figures: Iterable[ReplicaFigures]) -> None:
        """Keeps what all replicas tell: those that say nothing have ended."""
        found = list(figures)
        with self._lock:
            for each in found:
                self._note(each)
            for name in self._latest.keys() - {each.replica for each in found}:
                self._ended[name] = self._latest.pop(name).stats.counters()
            while len(self._ended) > _ENDED:
                # The one that has ended first.
                self._earlier += self._ended.pop(next(iter(self._ended)))

    @property
    def memory(self) -> MemorySizes:
        """Returns the memory of the replicas' processes."""
        latest, _ = self._known()
        present = latest if self._running() else []
        return sum((each.memory for each in present), MemorySizes())

    def _known(self) -> tuple[list[ReplicaFigures], list[EngineStats]]:
        """Returns all figures, and the counters of the replicas that have ended."""
        with self._lock:
            return list(self._latest.values()), [*self._ended.values(), self._earlier]

    @asynccontextmanager
    async def watched(self, replicas: DeploymentHandle[Any]) -> AsyncIterator[None]:
        """Asks all replicas again and again within an ``async with`` block.

        Args:
            replicas: The handle of the deployment.
        """
        async with background_task(self._watch(replicas)):
            yield

    async def _watch(self, replicas: DeploymentHandle[Any]) -> None:
        while True:
            if self._running():
                try:
                    found = await replicas.broadcast("figures").results_async(
                        timeout_s=_TIMEOUT_SECONDS, return_exceptions=True
                    )
                except Exception as error:
                    # The figures stay as they are until the next answer.
                    logger.debug("the replicas can't be asked: %s", error)
                else:
                    self.update(
                        each for each in found if isinstance(each, ReplicaFigures)
                    )
            await asyncio.sleep(_PERIOD_SECONDS)

    def collect(self) -> Iterator[Any]:
        """Yields the figures as Prometheus metrics."""
        number, (latest, ended) = self._running(), self._known()
        stats = [each.stats if number else each.stats.counters() for each in latest]
        yield GaugeMetricFamily(
            "mllama_replicas", "Replicas that take requests.", value=number
        )
        yield from engine_metrics(sum([*stats, *ended], EngineStats()))
        yield worker_up(number > 0)
        yield from gpu_images([each.verdict for each in latest if number])
