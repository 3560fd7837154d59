"""How the server can be reached, by whom, and what it keeps."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mllama.errors import MllamaError
from mllama.server.access.hosts import AllowedHosts, is_loopback
from mllama.server.access.keys import KeyRing
from mllama.server.access.origins import checked_origins
from mllama.server.access.policy import AccessPolicy
from mllama.server.batches.options import BatchOptions
from mllama.server.http_server import TlsFiles
from mllama.server.listening import bind, bind_unix, close
from mllama.server.observability.log_format import LogStyle


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the server can be reached, and by whom.

    Attributes:
        host: Interface to listen on.
        port: Port to listen on; 0 is any that is free.
        uds: Path of a Unix socket to listen on in their place.
        api_keys: Keys of which a request needs one.
        admin_keys: Keys that open routes which change the server's state.
        origins: Origins of web pages that may use the server.
        allowed_hosts: Further names that ``Host`` may have on loopback.
        root_path: The path under which a proxy has this server.
        tls: The server's certificate; None serves plain HTTP.
        metrics_port: Port that has only ``/metrics``, without a key; 0 is any that is
            free.
        logs_requests: Whether each request has a line in the log.
        log_style: How the log looks.
        batches: Where files and batches are kept; None if the server has none.

    Raises:
        MllamaError: If a value is wrong.
    """

    host: str
    port: int
    uds: str | None = None
    api_keys: Sequence[str] = ()
    admin_keys: Sequence[str] = ()
    origins: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()
    root_path: str = ""
    tls: TlsFiles | None = None
    metrics_port: int | None = None
    logs_requests: bool = True
    log_style: LogStyle = field(default_factory=LogStyle)
    batches: BatchOptions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "origins", checked_origins(self.origins))
        if self.root_path and not self.root_path.startswith("/"):
            raise MllamaError(
                f"--root-path must begin with a slash, not {self.root_path!r}"
            )

    @property
    def is_local(self) -> bool:
        """Returns True if only programs on this machine reach the server."""
        return self.uds is not None or is_loopback(self.host)

    def policy(self) -> AccessPolicy:
        """Returns what decides whether a request is answered."""
        checks_hosts = self.uds is None and self.is_local
        return AccessPolicy(
            keys=KeyRing(self.api_keys),
            admin_keys=KeyRing(self.admin_keys),
            origins=self.origins,
            hosts=AllowedHosts(self.allowed_hosts) if checks_hosts else None,
        )

    @contextmanager
    def bound(self) -> Iterator[list[socket.socket]]:
        """Binds the sockets that the server listens on, and closes them at the end.

        Raises:
            MllamaError: If the port or the path can't be used.
        """
        sockets = (
            bind(self.host, self.port) if self.uds is None else bind_unix(self.uds)
        )
        try:
            yield sockets
        finally:
            close(sockets, self.uds)

    @contextmanager
    def metrics_bound(self) -> Iterator[list[socket.socket]]:
        """Binds the sockets of the metrics' own port, if there is one.

        Raises:
            MllamaError: If the port can't be used.
        """
        if self.metrics_port is None:
            yield []
            return
        sockets = bind(self.host, self.metrics_port, "--metrics-port")
        try:
            yield sockets
        finally:
            close(sockets)
