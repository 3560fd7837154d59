"""The memory of the server's processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mllama.images.preparation import worker_process_ids


@dataclass(frozen=True)
class MemorySizes:
    """The memory of processes, in bytes.

    Attributes:
        resident: What is in memory, mapped files included.
        private: What they share with no file and no other process.
    """

    resident: int = 0
    private: int = 0

    @classmethod
    def of(cls, pid: int | None) -> MemorySizes:
        """Returns the memory of a process; none of one that has ended."""
        if pid is None:
            return cls()
        try:
            info = psutil.Process(pid).memory_info()
        except psutil.Error:
            return cls()
        # The kernel keeps these numbers; the exact one would have it walk all pages.
        return cls(info.rss, info.rss - getattr(info, "shared", 0))

    def __add__(self, other: MemorySizes) -> MemorySizes:
        """Returns the memory of all processes of both."""
        return MemorySizes(self.resident + other.resident, self.private + other.private)


class ProcessMemory(Collector):
    """A Prometheus collector of the memory of the server's processes.

    Args:
        workers: Returns the memory of the processes that have the model.
    """

    def __init__(self, workers: Callable[[], MemorySizes]) -> None:
        self._workers = workers

    def _sizes(self) -> Mapping[str, MemorySizes]:
        return {
            "server": MemorySizes.of(os.getpid()),
            "worker": self._workers(),
            "images": sum(map(MemorySizes.of, worker_process_ids()), MemorySizes()),
        }

    def collect(self) -> Iterator[Any]:
        """Yields the memory of each kind of process."""
        resident = GaugeMetricFamily(
            "mllama_process_resident_memory_bytes",
            "Memory of a process, mapped files included: the server, the model's "
            "worker, and all that prepare images.",
            labels=["process"],
        )
        private = GaugeMetricFamily(
            "mllama_process_private_memory_bytes",
            "Memory that a process shares with no file and no other process.",
            labels=["process"],
        )
        for name, sizes in self._sizes().items():
            resident.add_metric([name], sizes.resident)
            private.add_metric([name], sizes.private)
        yield resident
        yield private
