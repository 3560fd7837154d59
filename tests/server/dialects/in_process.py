"""The server's routes over an engine that answers with given texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI

from mllama.errors import ImageError
from mllama.server.arrival.shared_memory import SharedMemory, SharedMemoryMiddleware
from mllama.server.capabilities import ServerCapabilities
from mllama.server.errors import add_error_handlers
from mllama.server.metrics_page import add_metrics_routes
from mllama.server.request_middleware import RequestMiddleware
from mllama.server.routes import add_routes, dialect, error_form
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import RequestQueue
from mllama.server.shutdown import Shutdown, ShutdownMiddleware

from .fake_engine import SPECIAL, VOCABULARY, FakeEngine

SLOTS = 64
"""Answers that the engine gives at a time."""


class FakeFetcher:
    """Has the contents of URLs."""

    def __init__(self) -> None:
        self.contents = {"http://pictures/one.png": b"one"}

    async def fetch(self, url: str, charge: Callable[[int], None]) -> bytes:
        if url not in self.contents:
            raise ImageError(f"{url} can't be fetched")
        charge(len(self.contents[url]))
        return self.contents[url]


@dataclass
class InProcessServer:
    """A server in this process."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    capabilities: ServerCapabilities = field(
        default_factory=lambda: ServerCapabilities(
            model_name="served",
            vocabulary=VOCABULARY,
            special_tokens=frozenset(SPECIAL),
            max_length=4096,
            max_images=4,
            created=1,
        )
    )
    fetcher: Any = field(default_factory=FakeFetcher)
    queue: RequestQueue = field(
        default_factory=lambda: RequestQueue(SLOTS, limit=1000, prepared_ahead=SLOTS)
    )
    memory: SharedMemory = field(default_factory=SharedMemory)
    shutdown: Shutdown = field(default_factory=lambda: Shutdown(0.1))
    _app: FastAPI | None = field(default=None, init=False)

    def app(self) -> FastAPI:
        """The application, which is made once: routes take time to be built."""
        if self._app is None:
            self._app = self._new_app()
        return self._app

    def _new_app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        engine = QueuedEngineClient(self.engine, self.queue)
        self.shutdown.drain_engine(engine)
        add_routes(app, engine, self.capabilities, self.fetcher)
        add_error_handlers(app, error_form)
        app.add_middleware(SharedMemoryMiddleware, memory=self.memory)
        app.add_middleware(
            ShutdownMiddleware, shutdown=self.shutdown, form_of=error_form
        )
        add_metrics_routes(app)
        app.add_middleware(RequestMiddleware, form_of=error_form, dialect_of=dialect)
        return app

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = httpx.Headers(options.get("headers"))
        headers.setdefault("x-request-id", "id")
        options["headers"] = headers

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app())
            async with httpx.AsyncClient(
                transport=transport, base_url="http://server"
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, content=content)
