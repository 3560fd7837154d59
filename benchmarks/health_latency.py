"""Measures how soon ``/health`` answers while other requests keep the server busy.

    python -m benchmarks.health_latency
    python -m benchmarks.health_latency --seconds 30 --only photos,arrays

A server with the demo model runs, one process sends the requests of a load, and one
asks ``/health`` 50 times a second.  Prints a line of JSON for each load: milliseconds
until the answer, the longest time that the event loop computed at once (``busy_ms``,
see :mod:`benchmarks.probed_server`), and the statuses of the load's answers.
"""

from __future__ import annotations

import argparse
import base64
import collections
import io
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image

from benchmarks.servers import running_server
from mllama.demo_model import MODEL_PATH, PICTURES

HEALTH_SECONDS: Final = 0.02
"""Between two questions for the server's health."""


def _user(*content: Mapping[str, Any] | str) -> list[Any]:
    parts = [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]
    return [{"role": "user", "content": parts}]


def _part(data: bytes, kind: str) -> dict[str, Any]:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _noise(width: int, height: int, kind: str, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    grains = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(grains).resize((width, height)).save(file, kind)
    return file.getvalue()


def _chat(**fields: Any) -> bytes:
    return json.dumps({"temperature": 0, "max_tokens": 24, **fields}).encode()


def _scenes() -> list[bytes]:
    return [
        _chat(
            messages=_user(_part(p.path.read_bytes(), "png"), p.questions[0].text),
            stream=True,
        )
        for p in PICTURES
    ]


def _photos() -> list[bytes]:
    files = [_noise(4000, 3000, "JPEG", seed) for seed in range(24)]
    return [_chat(messages=_user(_part(file, "jpeg"), "What?")) for file in files]


def _long_prompts() -> list[bytes]:
    return [_chat(messages=_user("word " * 3_300_000))]


def _arrays() -> list[bytes]:
    return [_chat(messages=_user("Hi"), metadata={"a": [0.5] * 490_000})]


def _objects() -> list[bytes]:
    fields = {f"key{number}": number for number in range(74_000)}
    return [_chat(messages=_user("Hi"), metadata=fields)]


def _schemas() -> list[bytes]:
    names = [f"property_{number}" for number in range(400)]
    schema = {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": 50} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    answer = {"name": "a", "schema": schema, "strict": True}
    form = {"type": "json_schema", "json_schema": answer}
    return [_chat(messages=_user("Hi"), response_format=form)]


def _log_probabilities() -> list[bytes]:
    return [
        _chat(
            messages=_user("Tell me more"),
            max_tokens=2000,
            ignore_eos=True,
            logprobs=True,
            top_logprobs=20,
            stream=stream,
        )
        for stream in (False, True)
    ]


def _choices() -> list[bytes]:
    return [_chat(messages=_user("Hi"), n=8, stream=True, temperature=1)]


LOADS: Final[Mapping[str, tuple[int, Callable[[], list[bytes]]]]] = {
    "nothing": (0, list),
    "8 streams about pictures": (8, _scenes),
    "64 streams about pictures": (64, _scenes),
    "photos": (4, _photos),
    "prompts of 16 MB": (4, _long_prompts),
    "arrays": (4, _arrays),
    "objects": (4, _objects),
    "schemas": (4, _schemas),
    "log probabilities": (4, _log_probabilities),
    "choices": (4, _choices),
}
"""How many clients send what, each its next request when it has its answer."""


def send_load(name: str, address: str, stop: Event, result: Connection) -> None:
    """Sends a load's requests until the end, and tells the statuses of the answers."""
    clients, make = LOADS[name]
    bodies = make()
    statuses: collections.Counter[str] = collections.Counter()

    def client(number: int) -> None:
        with httpx.Client(base_url=address, timeout=120) as http:
            while not stop.is_set():
                body = bodies[number % len(bodies)]
                number += 1
                with http.stream(
                    "POST",
                    "/v1/chat/completions",
                    content=body,
                    headers={"content-type": "application/json"},
                ) as answer:
                    for _ in answer.iter_raw():
                        if stop.is_set():
                            return
                statuses[str(answer.status_code)] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    result.send(None)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.send(dict(statuses))


def ask_for_health(address: str, seconds: float, result: Connection) -> None:
    """Asks for the server's health again and again, and tells how long it took."""
    took = []
    with httpx.Client(base_url=address, timeout=60) as http:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            http.get("/health").raise_for_status()
            took.append(time.perf_counter() - began)
            time.sleep(max(0.0, HEALTH_SECONDS - took[-1]))
    result.send(took)


def measure(name: str, address: str, seconds: float) -> dict[str, Any]:
    """Returns the figures of one load."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    statuses, load_end = context.Pipe(duplex=False)
    times, health_end = context.Pipe(duplex=False)
    load = context.Process(target=send_load, args=(name, address, stop, load_end))
    load.start()
    statuses.recv()
    time.sleep(2)
    httpx.get(f"{address}/probe")
    health = context.Process(target=ask_for_health, args=(address, seconds, health_end))
    health.start()
    took = [1000 * second for second in times.recv()]
    stop.set()
    busy = httpx.get(f"{address}/probe").json()["busy"]
    answers = statuses.recv()
    for process in (health, load):
        process.join()
    return {
        "load": name,
        "asked": len(took),
        "median_ms": round(statistics.median(took), 1),
        "p99_ms": round(statistics.quantiles(took, n=100)[98], 1),
        "most_ms": round(max(took), 1),
        "busy_ms": round(1000 * busy, 1),
        "answers": answers,
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--only", help="names of loads, with commas")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(LOADS)
    command = ["serve", "--model-path", str(MODEL_PATH), "--devices", "cpu"]
    command += ["--max-batch-size", "8"]
    with running_server(*command, module="benchmarks.probed_server") as server:
        for name in names:
            figures = measure(name, server.url, options.seconds)
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
