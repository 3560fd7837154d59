"""Measures a cluster of this machine: where requests go, faults, scaling, overhead.

    python -m benchmarks.cluster                     # everything
    python -m benchmarks.cluster routing overhead    # some parts

Prints one JSON object.  The parts:

``routing``: 300 requests of 6 clients about 30 pictures, in a random order, to 3
replicas of the demo model; by consistent hashing of the picture, and beside it round
robin.  ``kept`` is the part of the requests about a picture that some replica had which
such a replica answered, ``encoded`` the number of encodings of images.

``kill``: 8 clients stream from 3 replicas, one of which is killed with SIGKILL.
``lost`` are requests that ended without an answer or an error that says why.

``scaling``: 24 clients until a cluster of one replica has three, and one client until
it has one again.

``overhead``: single requests in turn to ``mllama serve`` and to a cluster of one
replica.  ``request`` is the difference of the medians of answers of one token, and
``token`` that of the times between two tokens of streams, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.serving import picture

REQUESTS, PICTURES, CLIENTS = 300, 30, 6
REPLICAS = 3
START_SECONDS = 600
BATCH = ["--devices", "cpu", "--max-batch-size", "4", "--no-access-log"]


@dataclass
class Running:
    """A server that runs."""

    url: str
    process: subprocess.Popen[bytes]

    def metric(self, name: str) -> float:
        """Returns the value of a metric."""
        page = httpx.get(f"{self.url}/metrics", timeout=60).text
        for line in page.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise KeyError(name)

    def replicas(self) -> list[psutil.Process]:
        """Returns the processes of the replicas."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in children if _is_replica(each)]


def _is_replica(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and "Replica:mllama" in process.cmdline()[0]
    except psutil.Error:
        return False


@contextlib.contextmanager
def served(*command: str, module: str = "mllama") -> Iterator[Running]:
    """Yields a server that answers, and ends it on exit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        (Path(folder) / "log").open("w+b") as log,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", module, *command, "--port", str(port)],
            stdout=log,
            stderr=log,
            env=os.environ | {"RAY_TMPDIR": folder},
        )
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                        break
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit((Path(folder) / "log").read_text())
                time.sleep(0.2)
            yield Running(url, process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def cluster(
    *options: str, router: str = "consistent_hash"
) -> contextlib.AbstractContextManager[Running]:
    """Returns a cluster that runs within a ``with`` block."""
    command = ["cluster", "serve", *BATCH, "--ray-cpus", "8", *options]
    return served(router, *command, module="benchmarks.routed_cluster")


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


def routing(router: str) -> dict[str, Any]:
    """Returns where requests went."""
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


class Load:
    """Clients that stream answers about a few pictures, one after the other.

    Attributes:
        clients: How many there are now; those beyond end after their answers.
        results: Status and text of each response; status 0 is none.
    """

    def __init__(self, running: Running, clients: int) -> None:
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


async def until(running: Running, replicas: int, limit: float) -> float:
    """Waits for a number of replicas, and returns the seconds that it took."""
    started = time.monotonic()
    while await asyncio.to_thread(running.metric, "mllama_replicas") != replicas:
        if time.monotonic() - started > limit:
            raise SystemExit(f"there are not {replicas} replicas after {limit:g} s")
        await asyncio.sleep(0.5)
    return time.monotonic() - started


def kill() -> dict[str, Any]:
    """Returns what a replica's death under load does."""

    async def run(load: Load, running: Running) -> float:
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

    async def run(load: Load, running: Running) -> tuple[float, float]:
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
    """Returns what a cluster's front costs beside a server's."""
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
        served("serve", *BATCH) as direct,
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


PARTS: dict[str, Callable[[], Any]] = {
    "routing": lambda: {
        router: routing(router) for router in ("consistent_hash", "round_robin")
    },
    "kill": kill,
    "scaling": scaling,
    "overhead": overhead,
}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}")
    print(json.dumps({n: PARTS[n]() for n in arguments.parts or PARTS}, indent=2))


if __name__ == "__main__":
    main()
