"""What a cluster's front costs, beside ``mllama serve``."""

from __future__ import annotations

import asyncio
import statistics
import time
from itertools import pairwise
from typing import Any

import httpx

from benchmarks.cluster.clusters import BATCH, chat, cluster, pictures
from benchmarks.servers import running_server


async def token_times(client: httpx.AsyncClient, url: str, tokens: int) -> list[float]:
    """Returns the times between the tokens of a stream, in milliseconds."""
    arrived = []
    body = chat(None, tokens=tokens, stream=True)
    async with client.stream("POST", url, json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                arrived.append(time.perf_counter())
    return [
        (after - before) * 1000
        # The last one has no token.
        for before, after in pairwise(arrived[:-1])
    ]


async def one_token(client: httpx.AsyncClient, url: str, file: bytes) -> float:
    """Returns how long a request takes, in milliseconds."""
    started = time.perf_counter()
    response = await client.post(url, json=chat(file, tokens=1))
    response.raise_for_status()
    return (time.perf_counter() - started) * 1000


def overhead() -> dict[str, Any]:
    """Returns what a cluster's front costs beside a server's, in milliseconds.

    ``request`` is the difference of the medians of answers of one token, and ``token``
    that of the times between two tokens of streams, in turn to both.
    """
    (file,) = pictures(1)
    requests: dict[str, list[float]] = {"direct": [], "cluster": []}
    tokens: dict[str, list[float]] = {"direct": [], "cluster": []}

    async def run(urls: dict[str, str]) -> None:
        async with httpx.AsyncClient(timeout=600) as client:
            for round_number in range(65):
                for name, url in urls.items():
                    taken = await one_token(client, url, file)
                    if round_number >= 5:
                        requests[name].append(taken)
            for round_number in range(17):
                for name, url in urls.items():
                    times = await token_times(client, url, 64)
                    if round_number >= 2:
                        tokens[name].append(statistics.fmean(times))

    with (
        # Replicas don't compile in the background either.
        running_server("serve", *BATCH, "--no-background-compilation") as direct,
        cluster("--replicas", "1") as running,
    ):
        servers = {"direct": direct, "cluster": running}
        urls = {n: f"{each.url}/v1/chat/completions" for n, each in servers.items()}
        asyncio.run(run(urls))
    result: dict[str, Any] = {}
    for what, times in (("request", requests), ("token", tokens)):
        medians = {name: statistics.median(values) for name, values in times.items()}
        result[what] = round(medians["cluster"] - medians["direct"], 3)
        result[f"{what}_medians"] = {n: round(m, 3) for n, m in medians.items()}
    return result
