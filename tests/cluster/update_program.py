"""Deploys an application anew, with other options, while clients ask it.

Prints how their requests ended.  A program of its own: Ray is configured once in a
process.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from typing import Any

import httpx

from mllama.cluster.ray_cluster import ray_cluster
from tests.ports import free_port

CLIENTS = 4
START_SECONDS = 600
BEFORE, AFTER = 5, 9
"""Tokens of answers to requests that set no limit."""


def body(picture: bytes, **fields: Any) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is it?"},
    ]
    messages = [{"role": "user", "content": parts}]
    return {"model": "", "messages": messages, "ignore_eos": True, **fields}


class Load:
    """Clients that ask, one request after the other.

    Attributes:
        answers: For each request its status, its length in tokens, and its text.
    """

    def __init__(self, url: str, picture: bytes) -> None:
        self._url = url
        self._picture = picture
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(number,))
            for number in range(CLIENTS)
        ]
        self.answers: list[tuple[int, int, str]] = []
        for thread in self._threads:
            thread.start()

    def _client(self, number: int) -> None:
        with httpx.Client(timeout=START_SECONDS) as http:
            while not self._ends.is_set():
                if number % 2:
                    self.answers.append(self._stream(http))
                else:
                    response = http.post(self._url, json=body(self._picture))
                    tokens = (
                        response.json()["usage"]["completion_tokens"]
                        if response.status_code == 200
                        else 0
                    )
                    self.answers.append((response.status_code, tokens, response.text))

    def _stream(self, http: httpx.Client) -> tuple[int, int, str]:
        sent = body(self._picture, stream=True, stream_options={"include_usage": True})
        response = http.post(self._url, json=sent)
        tokens = 0
        for line in response.text.splitlines():
            if line.startswith("data: {") and (
                usage := json.loads(line[6:]).get("usage")
            ):
                tokens = usage["completion_tokens"]
        return response.status_code, tokens, response.text

    def until(self, tokens: int, count: int) -> None:
        """Waits until so many answers have a length."""
        end = time.monotonic() + START_SECONDS
        while sum(found == tokens for _, found, _ in self.answers) < count:
            if time.monotonic() > end:
                raise SystemExit(f"there are no answers of {tokens} tokens")
            time.sleep(0.1)

    def end(self) -> None:
        """Waits for the last answers."""
        self._ends.set()
        for thread in self._threads:
            thread.join()


def main() -> None:
    from mllama.demo_model import PICTURES

    port = free_port()
    with ray_cluster(None, cpus=4):
        from ray import serve

        from mllama.cluster import build_app

        serve.start(http_options={"host": "127.0.0.1", "port": port})
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        options = {"replicas": 2, "devices": "cpu", "max_batch_size": 2}
        serve.run(build_app({**options, "max_new_tokens": BEFORE}), name="mllama")
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        load = Load(url, PICTURES[0].path.read_bytes())
        load.until(BEFORE, 10)
        options |= {"max_batch_size": 4, "fallback_replicas": 1}
        serve.run(build_app({**options, "max_new_tokens": AFTER}), name="mllama")
        load.until(AFTER, 30)
        load.end()
        status = serve.status().applications["mllama"]
        states = {
            name: each.replica_states for name, each in status.deployments.items()
        }
        serve.shutdown()
    failed = [
        (status, text[:300])
        for status, tokens, text in load.answers
        if status != 200 or tokens not in (BEFORE, AFTER)
    ]
    lengths = [tokens for _, tokens, _ in load.answers]
    print(
        json.dumps(
            {
                "failed": failed,
                "before": lengths.count(BEFORE),
                "after": lengths.count(AFTER),
                "last": lengths[-CLIENTS:],
                "states": states,
            }
        )
    )


if __name__ == "__main__":
    main()
