"""A server whose worker tests kill, and what clients see of that."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image

from tests.reference.cases import data_url
from tests.server.conftest import Server

RECOVERY_SECONDS = 300
"""A limit for a busy test machine; on an idle one a worker is back in 3 to 10 s."""

NEW_TOKENS = 400


@dataclass
class Answer:
    """What a client got.

    Attributes:
        status: HTTP status.
        text: The answer's text, as far as it came.
        is_complete: Whether the answer says that it is complete.
        error: The error that ended it, or None.
        retry_after: The header, or None.
        seconds: How long it took.
    """

    status: int
    text: str = ""
    is_complete: bool = False
    error: str | None = None
    retry_after: str | None = None
    seconds: float = 0

    @property
    def has_ended(self) -> bool:
        """Returns True if the client knows how its request went."""
        return self.is_complete != (self.error is not None)


@dataclass
class Api:
    """How a dialect asks, and how its answers look."""

    path: str
    body: dict[str, Any]
    read: Callable[[httpx.Response, Answer], None] = field(repr=False)


def _lines(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        text = line.removeprefix("data: ")
        if text.startswith("{"):
            yield json.loads(text)


def _read_openai(response: httpx.Response, answer: Answer) -> None:
    for event in _lines(response):
        if "error" in event:
            answer.error = event["error"]["message"]
        for choice in event.get("choices", ()):
            part = choice.get("delta") or choice.get("message") or {}
            answer.text += part.get("content") or ""
            answer.is_complete |= choice["finish_reason"] is not None


def _read_anthropic(response: httpx.Response, answer: Answer) -> None:
    for event in _lines(response):
        if event["type"] == "error":
            answer.error = event["error"]["message"]
        answer.text += event.get("delta", {}).get("text", "")
        answer.is_complete |= event["type"] in ("message_stop", "message")


def _read_ollama(response: httpx.Response, answer: Answer) -> None:
    for event in _lines(response):
        answer.error = event.get("error", answer.error)
        answer.text += event.get("message", {}).get("content", "")
        answer.is_complete |= event.get("done", False)


HELLO = [{"role": "user", "content": "Hello"}]
OPENAI = Api(
    "/v1/chat/completions", {"max_tokens": NEW_TOKENS, "ignore_eos": True}, _read_openai
)
ANTHROPIC = Api("/v1/messages", {"max_tokens": NEW_TOKENS}, _read_anthropic)
OLLAMA = Api("/api/chat", {}, _read_ollama)
APIS = (OPENAI, ANTHROPIC, OLLAMA)


def picture(color: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Returns a question about a picture of one color."""
    url = data_url(Image.new("RGB", (64, 64), color))
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return [{"role": "user", "content": content}]


class Faults:
    """A running server, whose worker can be killed.

    Args:
        server: The server.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.process = psutil.Process(server.process.pid)
        # One for all, since making one takes long, but with a connection for each
        # request, so that the server's descriptors are its own.
        self.client = httpx.Client(
            base_url=server.url,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    def ask(
        self,
        api: Api = OPENAI,
        messages: list[dict[str, Any]] | None = None,
        *,
        stream: bool = True,
        timeout: float = RECOVERY_SECONDS,
        **options: Any,
    ) -> Answer:
        """Returns the answer to a request, also if it fails."""
        body: dict[str, Any] = {"model": "mllama-demo", "messages": messages or HELLO}
        body |= {"stream": stream, **api.body, **options}
        start = time.monotonic()
        with self.client.stream(
            "POST", api.path, json=body, timeout=timeout
        ) as response:
            retry = response.headers.get("retry-after")
            answer = Answer(response.status_code, retry_after=retry)
            api.read(response, answer)
        answer.seconds = time.monotonic() - start
        return answer

    @contextmanager
    def asking(self, count: int, **options: Any) -> Iterator[list[Future[Answer]]]:
        """Sends so many requests at the same time, streams and whole ones, by all APIs
        in turn."""
        with ThreadPoolExecutor(count) as pool:
            yield [
                pool.submit(
                    self.ask, APIS[number % 3], stream=bool(number % 4), **options
                )
                for number in range(count)
            ]

    def health(self, path: str = "") -> int:
        """Returns the status of a probe."""
        return self.client.get(f"/health{path}", timeout=60).status_code

    def workers(self) -> list[psutil.Process]:
        """Returns the worker and, if there is one, the process that stands by."""
        found = [
            child
            for child in self.process.children()
            if "run_worker" in " ".join(child.cmdline())
        ]
        return sorted(found, key=lambda child: child.create_time())

    def signal_worker(self, number: signal.Signals) -> float:
        """Sends the worker a signal, and returns when."""
        worker = self.workers()[0]
        sent = time.monotonic()
        worker.send_signal(number)
        return sent

    def wait_for_health(self, status: int, seconds: float = RECOVERY_SECONDS) -> float:
        """Waits until a probe has a status, and returns when."""
        end = time.monotonic() + seconds
        while self.health() != status:
            assert time.monotonic() < end, self.server.log.read_text()[-3000:]
            time.sleep(0.02)
        return time.monotonic()

    def wait_for_requests(self, answers: list[Future[Answer]]) -> None:
        """Waits until the server counts all requests as running, waiting or answered,
        and one runs."""
        end = time.monotonic() + RECOVERY_SECONDS
        received = running = 0.0
        while received < len(answers) or not running:
            assert time.monotonic() < end, received
            running = self.metric("mllama_num_requests_running")
            received = running + self.metric("mllama_num_requests_waiting")
            received += sum(each.done() for each in answers)

    def wait_for_standby(self) -> None:
        """Waits until the next worker's process has imported MAX."""
        end = time.monotonic() + RECOVERY_SECONDS
        used = -1.0
        idle_looks = 0
        while time.monotonic() < end and idle_looks < 4:
            workers = self.workers()
            if len(workers) > 1:
                before, used = used, sum(workers[1].cpu_times()[:2])
                # On a busy machine it may have to wait for a core.
                idle_looks = idle_looks + 1 if used == before and used > 1 else 0
            time.sleep(0.5)
        if idle_looks == 4:
            return
        raise AssertionError("no process stands by")

    def metric(self, name: str) -> float:
        """Returns a figure of ``/metrics``."""
        for line in self.client.get("/metrics", timeout=60).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(name)

    def holdings(self, temporary: Path) -> dict[str, int]:
        """Returns what the server has, of all that could leak.

        Args:
            temporary: The directory of its temporary files.
        """
        return {
            "descriptors": self.process.num_fds(),
            "threads": self.process.num_threads(),
            "children": len(self.process.children(recursive=True)),
            "temporary files": len(list(temporary.rglob("*"))),
            # Not all of /dev/shm, where other programs have files.
            "shared memory": sum(
                each.path.startswith(("/dev/shm/", "/memfd:"))
                for each in self.process.memory_maps(grouped=False)
            ),
        }
