"""Replicas that are killed, and that come and go, under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx

from benchmarks.cluster.clusters import (
    REPLICAS,
    RunningCluster,
    chat,
    cluster,
    pictures,
    until,
)


class Load:
    """Clients that stream answers about a few pictures, one after the other.

    Attributes:
        clients: How many there are now; those beyond end after their answers.
        results: Status and text of each response; status 0 is none.
    """

    def __init__(self, running: RunningCluster, clients: int) -> None:
        self._url = f"{running.url}/v1/chat/completions"
        self._files = pictures(8)
        self.clients = clients
        self.results: list[tuple[int, str]] = []

    async def run(self) -> None:
        """Returns when there are to be no clients any more."""
        await asyncio.gather(*(self._client(index) for index in range(self.clients)))

    async def _client(self, index: int) -> None:
        turn = index
        async with httpx.AsyncClient(timeout=600) as session:
            while index < self.clients:
                file = self._files[turn % len(self._files)]
                try:
                    response = await session.post(
                        self._url, json=chat(file, tokens=32, stream=True)
                    )
                except httpx.HTTPError as error:
                    self.results.append((0, repr(error)))
                else:
                    self.results.append((response.status_code, response.text))
                    if response.status_code != 200:
                        await asyncio.sleep(0.5)
                turn += 1

    def summary(self) -> dict[str, Any]:
        """Returns how requests ended."""
        return {
            "requests": len(self.results),
            "by_status": dict(Counter(status for status, _ in self.results)),
            "ended_with_an_error_amid_the_stream": sum(
                status == 200 and '"error"' in text for status, text in self.results
            ),
            "lost": sum(not is_clear(*each) for each in self.results),
        }


def is_clear(status: int, text: str) -> bool:
    """Returns True if a response is a whole answer, or says what went wrong."""
    if status == 200:
        last = text.strip().split("\n\n")[-1]
        return last == "data: [DONE]" or '"error"' in last
    return status in (429, 503) and '"error"' in text


def kill() -> dict[str, Any]:
    """Returns what a replica's death under load does."""

    async def run(load: Load, running: RunningCluster) -> float:
        await until(running, REPLICAS, 300)
        task = asyncio.create_task(load.run())
        await asyncio.sleep(8)
        running.replicas()[0].kill()
        await until(running, REPLICAS - 1, 30)
        seconds = await until(running, REPLICAS, 120)
        await asyncio.sleep(5)
        load.clients = 0
        await task
        return seconds

    with cluster("--replicas", str(REPLICAS)) as running:
        load = Load(running, 8)
        seconds = asyncio.run(run(load, running))
    return {**load.summary(), "whole_again_seconds": round(seconds, 1)}


def scaling() -> dict[str, Any]:
    """Returns what happens as replicas come and go under load."""

    async def run(load: Load, running: RunningCluster) -> tuple[float, float]:
        task = asyncio.create_task(load.run())
        up = await until(running, REPLICAS, 300)
        await asyncio.sleep(5)
        load.clients = 1
        down = await until(running, 1, 300)
        await asyncio.sleep(3)
        load.clients = 0
        await task
        return up, down

    with cluster("--replicas", "1", "--max-replicas", str(REPLICAS)) as running:
        load = Load(running, 24)
        up, down = asyncio.run(run(load, running))
    return {**load.summary(), "up_seconds": round(up), "down_seconds": round(down)}
