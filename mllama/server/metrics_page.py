"""``GET /metrics``, and the server of ``--metrics-port``."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope
from uvicorn import Config, Server

from mllama.server.access.middleware import AccessMiddleware
from mllama.server.access.policy import METRICS as METRICS_PATH
from mllama.server.access.policy import AccessPolicy
from mllama.server.arrival.connection_pool import ConnectionLimits, close_slow
from mllama.server.arrival.connections import limited_connections
from mllama.server.errors import ErrorForm, add_error_handlers
from mllama.server.listening import address_text
from mllama.server.observability.metrics import METRICS, REGISTRY
from mllama.server.observability.process_memory import MemorySizes, ProcessMemory
from mllama.server.observability.shared_stats import SharedStats
from mllama.version import __version__

logger = logging.getLogger("mllama")

_CONNECTIONS: Final = 64
"""Connections of scrapers at a time.  Nobody needs a key for them."""

_SHUTDOWN_SECONDS: Final = 1
"""How long answers may take once the server ends."""

_TICKS: Final = 10
"""Tenths of a second between two looks at how long connections take."""


@contextmanager
def worker_metrics(stats: SharedStats) -> Iterator[None]:
    """Shows the worker's figures on the page, within a ``with`` block.

    Args:
        stats: What the worker tells.
    """
    METRICS.build.labels(__version__, version("max")).set(1)
    collectors = (stats, ProcessMemory(lambda: MemorySizes.of(stats.worker_pid)))
    for collector in collectors:
        REGISTRY.register(collector)
    try:
        yield
    finally:
        for collector in collectors:
            REGISTRY.unregister(collector)


async def metrics_page(request: Request) -> Response:
    """Returns all metrics, in Prometheus' or OpenMetrics' format."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    # Some metrics are read from files of the system.
    content = await asyncio.to_thread(encode, REGISTRY)
    return Response(content, headers={"content-type": content_type})


def add_metrics_routes(app: FastAPI) -> None:
    """Adds the page to an application."""
    for method in ("GET", "HEAD"):
        app.add_api_route(
            METRICS_PATH, metrics_page, methods=[method], include_in_schema=False
        )


class _MetricsServer(Server):
    """A server beside the main one, which handles the signals."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept connections."""
        await super().startup(sockets)
        for bound in sockets or ():
            logger.info("metrics are at %s/metrics", address_text(bound, "http"))

    async def on_tick(self, counter: int) -> bool:
        """Is called ten times a second; returns True to stop the server."""
        if counter % _TICKS == 0:
            now = asyncio.get_running_loop().time()
            close_slow(self.server_state.connections, now)
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals as they are."""
        yield


@asynccontextmanager
async def metrics_served(
    sockets: Sequence[socket.socket],
    policy: AccessPolicy,
    form_of: Callable[[Scope], ErrorForm],
) -> AsyncIterator[None]:
    """Serves the page, and nothing else, within an ``async with`` block.

    Args:
        sockets: What it listens on, bound; none serves nothing.
        policy: Who may use the main server; here no key is needed.
        form_of: Returns the form of a request's errors.
    """
    if not sockets:
        yield
        return
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_metrics_routes(app)
    add_error_handlers(app, form_of)
    app.add_middleware(
        AccessMiddleware, policy=AccessPolicy(hosts=policy.hosts), form_of=form_of
    )
    limits = ConnectionLimits(connections=_CONNECTIONS)
    config = Config(
        app,
        log_config=None,
        lifespan="off",
        ws="none",
        http=limited_connections(limits, form_of),
        # A client that reads nothing would hold up the end of the server.
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    server = _MetricsServer(config)
    task = asyncio.create_task(server.serve(list(sockets)))
    try:
        yield
    finally:
        server.should_exit = True
        await task
