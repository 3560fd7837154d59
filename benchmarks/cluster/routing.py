"""Where requests go: by consistent hashing of the picture, beside round robin."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx

from benchmarks.cluster.clusters import REPLICAS, chat, cluster, pictures, until

REQUESTS: Final = 300
PICTURES: Final = 30
CLIENTS: Final = 6


async def in_turn(
    clients: int, calls: list[Callable[[httpx.AsyncClient], Awaitable[None]]]
) -> None:
    """Makes calls in order, so many at a time."""
    queue = list(reversed(calls))

    async def work(client: httpx.AsyncClient) -> None:
        while queue:
            await queue.pop()(client)

    async with httpx.AsyncClient(timeout=600) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))


def routing() -> dict[str, Any]:
    """Returns where requests go, by the names of routers."""
    return {name: routed(name) for name in ("consistent_hash", "round_robin")}


def routed(router: str) -> dict[str, Any]:
    """Returns where requests go.

    ``kept`` is the part of the requests about a picture that some replica had which
    such a replica answered, ``encoded`` the number of encodings of images.

    Args:
        router: The router's name.
    """
    files = pictures(PICTURES)
    asked = [index % PICTURES for index in range(REQUESTS)]
    random.Random(7).shuffle(asked)
    has: dict[int, set[str]] = {}
    found: Counter[bool] = Counter()
    seconds: list[float] = []

    with cluster("--replicas", str(REPLICAS), router=router) as running:
        url = f"{running.url}/v1/chat/completions"
        # One that comes later takes some of the others' keys.
        asyncio.run(until(running, REPLICAS, 300))
        time.sleep(2)

        def ask(index: int) -> Callable[[httpx.AsyncClient], Awaitable[None]]:
            async def call(client: httpx.AsyncClient) -> None:
                had = set(has.get(index, ()))
                started = time.perf_counter()
                body = chat(files[index], tokens=8)
                response = await client.post(url, json=body)
                response.raise_for_status()
                seconds.append(time.perf_counter() - started)
                replica = response.headers["x-replica-id"]
                if had:
                    found[replica in had] += 1
                has.setdefault(index, set()).add(replica)

            return call

        started = time.perf_counter()
        asyncio.run(in_turn(CLIENTS, [ask(index) for index in asked]))
        return {
            "kept": round(found[True] / found.total(), 4),
            "encoded": running.metric("mllama_image_cache_misses_total"),
            "seconds": round(time.perf_counter() - started, 1),
            "median_ms": round(statistics.median(seconds) * 1000, 1),
        }
