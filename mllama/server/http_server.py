"""The HTTP server: uvicorn with this package's options."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final

from fastapi import FastAPI
from starlette.types import Scope
from uvicorn import Config, Server

from mllama.errors import MllamaError
from mllama.max_compat.server import Settings
from mllama.server.access.unix_peers import UnixPeers
from mllama.server.arrival.connection_pool import ConnectionLimits, close_slow
from mllama.server.arrival.connections import limited_connections
from mllama.server.arrival.request_head import MAX_HEAD_BYTES
from mllama.server.arrival.tls_connections import TlsConnection, tls_connections
from mllama.server.errors import ErrorForm
from mllama.server.listening import address_text
from mllama.server.paths import RootPath
from mllama.server.shutdown import Shutdown
from mllama.utils.allocator import MemoryTrimmer
from mllama.utils.garbage import collect_new_garbage

logger = logging.getLogger("mllama")

_TRIM_TICKS: Final = 50
"""Tenths of a second between two looks at the memory."""

_TICKS: Final = 10
"""Tenths of a second between two looks at how long connections take."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """The files of a server's certificate.

    Attributes:
        certificate: The certificate with its chain, in PEM.
        key: Its private key; None if it is in the same file.
        password: The key's password, or None.

    Raises:
        MllamaError: If they can't be used.
    """

    certificate: str
    key: str | None = None
    password: str | None = None

    def __post_init__(self) -> None:
        self.context()

    def context(self) -> ssl.SSLContext:
        """Returns a context of a server with this certificate.

        Raises:
            MllamaError: If the files can't be used.
        """
        # Without a password, OpenSSL would ask for one in the terminal.
        password = self.password or ""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key, lambda: password)
        except (OSError, ValueError) as error:
            files = self.certificate + (f" and {self.key}" if self.key else "")
            raise MllamaError(
                f"the certificate in {files} can't be used: {error}"
            ) from error
        return context


def uvicorn_config(
    app: FastAPI,
    settings: Settings,
    *,
    form_of: Callable[[Scope], ErrorForm],
    root_path: str = "",
    tls: TlsFiles | None,
    uds: str | None = None,
    limits: ConnectionLimits | None = None,
) -> Config:
    """Returns the configuration of the HTTP server.

    Args:
        app: The application.
        settings: MAX Serve's settings.
        form_of: Returns the form of a request's errors.
        root_path: The path under which a proxy has this server.
        tls: The certificate; None serves plain HTTP.
        uds: The Unix socket that it listens on, if it does.
        limits: Limits of connections; None are those of this process.
    """
    below_root = RootPath(app, root_path) if root_path else app

    def form_below_root(scope: Scope) -> ErrorForm:
        return form_of({**scope, "root_path": root_path})

    connections = limited_connections(
        limits or ConnectionLimits.of_this_process(), form_below_root
    )
    return Config(
        app=below_root if uds is None else UnixPeers(below_root),
        # Who comes by a Unix socket has no address that uvicorn could trust.
        proxy_headers=uds is None,
        log_config=None,
        loop="uvloop",
        # httptools, which other packages may bring, has no limit of headers.
        http=connections
        if tls is None
        else tls_connections(connections, tls.context()),
        # Of a head that arrives in pieces.
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        # The server takes no web sockets.
        ws="none",
        # What is left after the shutdown's own time limit has been told so.
        timeout_graceful_shutdown=1,
        timeout_keep_alive=settings.http_keepalive_timeout_s,
        # MAX's would end the server with its worker.
        lifespan="off",
    )


class HttpServer(Server):
    """Listens on bound sockets, says in the log where, closes slow connections, and
    ends as it is asked to.

    SIGTERM and Ctrl-C end it when what runs has been answered, and at once the second
    time.

    Args:
        config: uvicorn's configuration.
        shutdown: Waits for what runs; None waits for nothing.
    """

    def __init__(self, config: Config, shutdown: Shutdown | None = None) -> None:
        super().__init__(config)
        self._shutdown = Shutdown(0) if shutdown is None else shutdown
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._trimmer = MemoryTrimmer()
        self._trimming: asyncio.Future[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles SIGTERM and SIGINT."""
        if self._shutdown.is_draining or self._loop is None:
            # uvicorn raises it again when it has ended.
            self._captured_signals.append(sig)
            self.should_exit = self.force_exit = True
            return
        self._shutdown.begin()
        self._loop.call_soon_threadsafe(self._drain, sig)

    def _drain(self, sig: int) -> None:
        name = "Ctrl-C" if sig == signal.SIGINT else signal.Signals(sig).name
        logger.info(
            "%s: no new requests; %d in progress have %g s (again: end at once)",
            name,
            self._shutdown.in_progress,
            self._shutdown.timeout,
        )

        async def end() -> None:
            await self._shutdown.drain()
            self.should_exit = True

        self._draining = asyncio.create_task(end())

    def shut_down(self) -> None:
        """Has the server end without waiting for what runs."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept connections."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        is_secure = issubclass(self.config.http_protocol_class, TlsConnection)
        scheme = "https" if is_secure else "http"
        for bound in sockets or ():
            logger.info("listening on %s (Ctrl-C to stop)", address_text(bound, scheme))

    async def on_tick(self, counter: int) -> bool:
        """Is called ten times a second; returns True to stop the server."""
        if counter % _TICKS == 0:
            now = asyncio.get_running_loop().time()
            close_slow(self.server_state.connections, now)
        is_trimming = self._trimming is not None and not self._trimming.done()
        if counter % _TRIM_TICKS == 0 and not is_trimming and self._trimmer.is_due():
            # Tracebacks and tasks hold each other, and what was in use then, until
            # Python's next full collection.  In this thread, for uvloop's objects, and
            # while nobody waits: after much work it takes milliseconds.
            if not self._shutdown.in_progress:
                collect_new_garbage()
            self._trimming = asyncio.ensure_future(
                asyncio.to_thread(self._trimmer.trim)
            )
        return await super().on_tick(counter)
