"""A local server that takes the hub's place for the hub's real client.

It records every request, and misbehaves as told.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http.server import ThreadingHTTPServer

from tests.hub.stand_in_protocol import Handler, Request, StandInRepository


class StandInHub:
    """The server, and its faults.

    Attributes:
        requests: All requests, in order.
        cut_after: The store closes one connection after each number of bytes.
        stall_after: The store stops sending after this many bytes and sets
            ``stalled``.
        ignore_ranges: The store always sends the whole file.
        answer: The status of every answer.
        damage: The store sends wrong bytes.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, StandInRepository] = {}
        self.requests: list[Request] = []
        self.cut_after: list[int] = []
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self.closing = threading.Event()
        self.ignore_ranges = False
        self.damage = False
        self.answer: int | None = None
        handler = type("HubHandler", (Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        ).start()

    def add(self, name: str, files: Mapping[str, bytes]) -> StandInRepository:
        """Adds a repository with one commit on its main branch."""
        self.repositories[name] = StandInRepository()
        self.repositories[name].commit(files)
        return self.repositories[name]

    def close(self) -> None:
        """Shuts the server down."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def requests_for(self, part: str, method: str = "GET") -> list[Request]:
        """Returns the requests whose path contains a text."""
        return [
            request
            for request in list(self.requests)
            if part in request.path and request.method == method
        ]


@contextlib.contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    hub = StandInHub()
    try:
        yield hub
    finally:
        hub.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores clients that close their connection."""
