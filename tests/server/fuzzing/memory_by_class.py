"""Measures what classes of requests leave in a server's memory.

``python -m tests.server.fuzzing --memory`` prints a table.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from tests.server.soak.samples import worker_of

from .exchange import Exchange
from .request_classes import CLASSES, Requests, cache_filling, different_picture
from .running_server import RunningServer

SETTLE_SECONDS: Final = 30
"""When memory has to be back after requests."""

_PARALLEL: Final = 6
_POLL_SECONDS: Final = 2
_STILL: Final = 1_000_000
_SLOW_CLIENTS: Final = 100
_SLOW_SECONDS: Final = 5
_SLOW: Final = "slow clients"

FEWEST_GROWN: Final = 50_000_000
LEAST_PART: Final = 0.05
"""Growth that counts: more than both, in bytes and as a part of what was there."""


@dataclass
class Measured:
    """What a class of requests has left.

    Attributes:
        name: The class.
        statuses: How many requests had which status; 0 if the client left.
        seconds: Seconds that the requests took.
        waited: Seconds after which memory was back, or the limit.
        sizes: Private memory of each process then, in bytes.
        problems: What was wrong with answers.
    """

    name: str
    statuses: Counter[int]
    seconds: float
    waited: float
    sizes: Mapping[str, int]
    problems: list[str] = field(default_factory=list)


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Returns the processes that have grown too much, and by how many bytes."""
    return {
        name: size - before.get(name, 0)
        for name, size in after.items()
        if size - before.get(name, 0)
        > max(FEWEST_GROWN, LEAST_PART * before.get(name, 0))
    }


def send_all(
    server: RunningServer, exchanges: Iterable[Exchange]
) -> tuple[Counter[int], list[str]]:
    """Sends requests, several at a time.

    Returns:
        How many had which status, and what was wrong with answers.
    """
    statuses: Counter[int] = Counter()
    problems: list[str] = []

    def send(exchange: Exchange) -> None:
        try:
            status = server.send(exchange).status
        except OSError as error:
            problems.append(f"{exchange.path}: no answer: {error!r}")
            return
        statuses[status] += 1
        if status >= 500 and status != 503:
            problems.append(f"{exchange.path}: status {status}")

    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(send, exchanges))
    return statuses, problems


def fill_caches(server: RunningServer) -> None:
    """Fills the image cache and the prefix cache with what nobody asks about again."""
    send_all(server, cache_filling(Requests(server.host)))


class MemoryByClass:
    """Sends classes of requests to a server, and measures after each.

    Attributes:
        before: Private memory of each process when both caches were full.

    Args:
        server: The server.
        process: The id of its process.
        site: The URL of a site that :func:`pictures_served` serves.
    """

    def __init__(self, server: RunningServer, process: int, site: str) -> None:
        self._server = server
        self._process = process
        self._requests = Requests(server.host, site)
        # All image processes and libraries are there.
        for name in ("JPEG", "PNG"):
            send_all(self._server, CLASSES[name](self._requests))
        fill_caches(server)
        self.before = self._settled()

    def run(self, only: str = "") -> Iterator[Measured]:
        """Yields what each class has left.

        Args:
            only: What the names of classes must contain.
        """
        for name in (*CLASSES, _SLOW):
            if only in name:
                yield self._measure(name)

    def _measure(self, name: str) -> Measured:
        began = time.monotonic()
        if name == _SLOW:
            statuses, problems = self._slow_clients(), []
        else:
            statuses, problems = send_all(self._server, CLASSES[name](self._requests))
        ended = time.monotonic()
        while (
            grown(self.before, sizes := self._sizes())
            and time.monotonic() < ended + SETTLE_SECONDS
        ):
            time.sleep(_POLL_SECONDS)
        waited = time.monotonic() - ended
        return Measured(name, statuses, ended - began, waited, sizes, problems)

    def _settled(self) -> dict[str, int]:
        """Returns the sizes when no process gives memory back any more."""
        end = time.monotonic() + SETTLE_SECONDS
        sizes = self._sizes()
        while time.monotonic() < end:
            time.sleep(2 * _POLL_SECONDS)
            now = self._sizes()
            if all(sizes.get(name, 0) - size < _STILL for name, size in now.items()):
                return now
            sizes = now
        return sizes

    def _slow_clients(self) -> Counter[int]:
        """Keeps requests open that never end, and answers that nobody reads."""
        streamed = self._requests.chat(stream=True, max_tokens=500, ignore_eos=True)
        head = f"POST {streamed.path} HTTP/1.1\r\nhost: {self._server.host}\r\n"
        whole = (
            f"{head}content-type: application/json\r\n"
            f"content-length: {len(streamed.body)}\r\n\r\n"
        ).encode() + streamed.body
        with contextlib.ExitStack() as stack:
            for number in range(_SLOW_CLIENTS):
                address = ("127.0.0.1", self._server.port)
                client = stack.enter_context(socket.create_connection(address, 30))
                client.sendall(whole if number % 10 == 0 else head.encode())
            time.sleep(_SLOW_SECONDS)
        return Counter({0: _SLOW_CLIENTS})

    def _sizes(self) -> dict[str, int]:
        """Returns the private memory of each process, by what it is and its id."""
        worker = worker_of(self._process)
        roles = {str(self._process): "server", str(worker): "worker"}
        return {
            f"{roles.get(name.split()[-1], 'other')} {name.split()[-1]}": size
            for name, size in self._server.private_bytes().items()
        }


@contextlib.contextmanager
def pictures_served() -> Iterator[str]:
    """Yields the URL of a site with pictures."""
    contents = {"picture": different_picture(1), "large": bytes(70 << 20)}

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = contents.get(self.path.strip("/").partition("?")[0])
            self.send_response(404 if content is None else 200)
            self.send_header("content-length", str(len(content or b"")))
            self.end_headers()
            # The server ends what is too large.
            with contextlib.suppress(OSError):
                self.wfile.write(content or b"")

        def log_message(self, *values: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://localhost:{site.server_port}"
        site.shutdown()


def table_line(measured: Measured, before: Mapping[str, int]) -> str:
    """Returns a line of the table: what the processes have more than before, in MB."""
    growth = {"server": 0, "worker": 0, "other": 0}
    for name, size in measured.sizes.items():
        role = name.split()[0]
        growth[role] = max(growth[role], size - before.get(name, 0), key=abs)
    figures = " | ".join(f"{growth[role] / 1e6:+7.1f}" for role in growth)
    statuses = ", ".join(
        f"{count} x {status or 'left'}"
        for status, count in sorted(measured.statuses.items())
    )
    return (
        f"| {measured.name:28} | {statuses:24} | {figures} | {measured.waited:4.0f} |"
    )
