"""What a server holds at a time: memory, files, threads, and places in its caches."""

from __future__ import annotations

import re
import statistics
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

_GAUGES: Mapping[str, str] = {
    "mllama_image_cache_entries": "image cache entries",
    "mllama_image_cache_pinned": "image cache pins",
    "mllama_kv_cache_used_blocks": "KV blocks",
    "mllama_num_requests_running": "requests running",
    "mllama_num_requests_waiting": "requests waiting",
}
"""Figures of ``/metrics``, and their names in the report."""

MUST_END_AT_ZERO = ("image cache pins", "requests running", "requests waiting")


@dataclass(frozen=True)
class Sample:
    """A server at a time.

    Attributes:
        seconds: When, since the soak began.
        worker: The id of the model's process; None if there is none.
        values: Figures by their names.
    """

    seconds: float
    worker: int | None
    values: Mapping[str, float]


def worker_of(server: int) -> int | None:
    """Returns the id of the model's process, which has the most threads."""
    threads = {}
    for child in psutil.Process(server).children(recursive=True):
        try:
            threads[child.pid] = child.num_threads()
        except psutil.Error:
            continue
    return max(threads, key=threads.__getitem__, default=None)


def take_sample(server: int, port: int, seconds: float) -> Sample:
    """Returns what a server holds now.

    Args:
        server: The id of its process.
        port: Its port.
        seconds: When it is, since the soak began.
    """
    values: dict[str, float] = {}
    worker = worker_of(server)
    own = psutil.Process(server)
    processes = [own, *own.children(recursive=True)]
    values["processes"] = len(processes)
    for process in processes:
        role = {server: "server", worker: "worker"}.get(process.pid, "others")
        try:
            with process.oneshot():
                figures = {
                    "private MB": process.memory_full_info().uss / 1e6,
                    "descriptors": process.num_fds(),
                    "threads": process.num_threads(),
                }
            if role == "server":
                figures["sockets"] = len(process.net_connections("all"))
        except psutil.Error:
            continue
        for name, value in figures.items():
            key = f"{role}: {name}"
            values[key] = values.get(key, 0) + value
    try:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as page:
            text = page.read().decode()
    except OSError:
        text = ""
    for metric, name in _GAUGES.items():
        if found := re.search(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.M):
            values[name] = float(found[1])
    return Sample(seconds, worker, values)


def growth(points: Sequence[tuple[float, float]]) -> float:
    """Returns how much a figure has grown in its time, by the median of all slopes.

    A few values that are far off, such as of a large request, don't change it (Theil
    and Sen's estimator).

    Args:
        points: Times and values.
    """
    slopes = [
        (late[1] - early[1]) / (late[0] - early[0])
        for index, early in enumerate(points)
        for late in points[index + 1 :]
        if late[0] > early[0]
    ]
    if not slopes:
        return 0.0
    return statistics.median(slopes) * (points[-1][0] - points[0][0])
