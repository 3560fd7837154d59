"""Clusters of this machine with the demo model, and what they are asked."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psutil

from benchmarks.servers import RunningServer, running_server
from benchmarks.serving import picture

REPLICAS: Final = 3
BATCH: Final = ("--devices", "cpu", "--max-batch-size", "4", "--no-access-log")


@dataclass(frozen=True)
class RunningCluster(RunningServer):
    """A cluster that runs."""

    def replicas(self) -> list[psutil.Process]:
        """Returns the processes of the replicas."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in children if _is_replica(each)]


def _is_replica(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and "Replica:mllama" in process.cmdline()[0]
    except psutil.Error:
        return False


@contextmanager
def cluster(*options: str, router: str = "consistent_hash") -> Iterator[RunningCluster]:
    """Yields a cluster that answers, and ends it on exit.

    Args:
        options: Options of ``mllama cluster serve``.
        router: The router's name in :mod:`benchmarks.cluster.routed`.
    """
    command = [router, "cluster", "serve", *BATCH, "--ray-cpus", "8", *options]
    with running_server(*command, module="benchmarks.cluster.routed") as server:
        yield RunningCluster(server.url, server.process)


async def until(running: RunningCluster, replicas: int, limit: float) -> float:
    """Waits for a number of replicas, and returns the seconds that it took."""
    started = time.monotonic()
    while await asyncio.to_thread(running.metric, "mllama_replicas") != replicas:
        if time.monotonic() - started > limit:
            raise SystemExit(f"there are not {replicas} replicas after {limit:g} s")
        await asyncio.sleep(0.5)
    return time.monotonic() - started


def chat(image: bytes | None, *, tokens: int, stream: bool = False) -> dict[str, Any]:
    """Returns the body of a chat of a given length, about a picture if there is one."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is in the picture?"}]
    if image is not None:
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
        "model": "",
    }


def pictures(number: int) -> list[bytes]:
    """Returns different pictures as PNG files."""
    generator = np.random.default_rng(7)
    files = []
    for _ in range(number):
        file = io.BytesIO()
        picture(generator, 200).save(file, "PNG")
        files.append(file.getvalue())
    return files
