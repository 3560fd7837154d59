"""The memory of the server's processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psutil
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mllama.images.preparation import worker_process_ids


class ProcessMemory(Collector):
    """A Prometheus collector of the memory of the server's processes.

    Args:
        worker_pid: Returns the id of the model's process, or None.
    """

    def __init__(self, worker_pid: Callable[[], int | None]) -> None:
        self._worker_pid = worker_pid

    def _processes(self) -> Mapping[str, Sequence[int]]:
        worker = self._worker_pid()
        return {
            "server": [os.getpid()],
            "worker": [] if worker is None else [worker],
            "images": worker_process_ids(),
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
        for name, ids in self._processes().items():
            sizes = [size for pid in ids if (size := _memory(pid)) is not None]
            resident.add_metric([name], sum(rss for rss, _ in sizes))
            private.add_metric([name], sum(own for _, own in sizes))
        yield resident
        yield private


def _memory(pid: int) -> tuple[int, int] | None:
    """Returns a process's resident and private memory; None if it has ended."""
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    # The kernel keeps these numbers; the exact one would have it walk all pages.
    return info.rss, info.rss - getattr(info, "shared", 0)
