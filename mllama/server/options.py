"""The server's options, and the sockets that they name."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
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
from mllama.server.scheduling.options import OverloadOptions
from mllama.server.supervisor.restart_options import RestartOptions

logger = logging.getLogger("mllama")


@dataclass(frozen=True)
class BoundSockets:
    """The sockets that the server listens on, bound.

    Attributes:
        requests: Those of all routes.
        metrics: Those that have only ``/metrics``.
    """

    requests: Sequence[socket.socket]
    metrics: Sequence[socket.socket] = ()


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The server's options.

    Attributes:
        host: Interface to listen on.
        port: Port to listen on; 0 is any that is free.
        uds: Path of a Unix socket to listen on in their place.
        api_keys: Keys of which a request needs one.
        admin_keys: Keys that open routes which change the server's state.
        origins: Origins of web pages that may use the server.
        allowed_hosts: Further names that ``Host`` may have, where it is checked.
        checks_hosts: Whether ``Host`` must be a known name; None is on loopback.
        root_path: The path under which a proxy has this server.
        tls: The server's certificate; None serves plain HTTP.
        metrics_port: Port that has only ``/metrics``, without a key; 0 is any that is
            free.
        logs_requests: Whether each request has a line in the log.
        log_style: How the log looks.
        batches: Where files and batches are kept; None if the server has none.
        overload: What the server does when there is more to do than it can.
        restarts: How workers that die are replaced.
        attention: Whether answers may come with attention maps.
        page: Whether browsers get the page.

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
    checks_hosts: bool | None = None
    root_path: str = ""
    tls: TlsFiles | None = None
    metrics_port: int | None = None
    logs_requests: bool = True
    log_style: LogStyle = field(default_factory=LogStyle)
    batches: BatchOptions | None = None
    overload: OverloadOptions = field(default_factory=OverloadOptions)
    restarts: RestartOptions = field(default_factory=RestartOptions)
    attention: bool = False
    page: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "origins", checked_origins(self.origins))
        if self.root_path and not self.root_path.startswith("/"):
            raise MllamaError(
                f"--root-path must begin with a slash, not {self.root_path!r}"
            )
        # Below "/llama/" would be "/llama//v1" only.
        object.__setattr__(self, "root_path", self.root_path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Returns True if only programs on this machine reach the server."""
        return self.uds is not None or is_loopback(self.host)

    def log_warnings(self) -> None:
        """Logs a warning if other machines may use the server without a key, and one
        if an option does nothing."""
        if self.allowed_hosts and not self._are_hosts_checked:
            where = "a Unix socket" if self.uds is not None else self.host
            logger.warning(
                "--allowed-host is ignored: a server on %s answers to every name",
                where,
            )
        if not (self.is_local or self.api_keys):
            logger.warning(
                "whoever can reach %s may use this server: set --api-key", self.host
            )

    @property
    def _are_hosts_checked(self) -> bool:
        if self.checks_hosts is None:
            return self.uds is None and self.is_local
        return self.checks_hosts

    def policy(self) -> AccessPolicy:
        """Returns what decides whether a request is answered."""
        return AccessPolicy(
            keys=KeyRing(self.api_keys),
            admin_keys=KeyRing(self.admin_keys),
            origins=self.origins,
            hosts=AllowedHosts(self.allowed_hosts) if self._are_hosts_checked else None,
            has_page=self.page,
        )

    @contextlib.contextmanager
    def bound(self) -> Iterator[BoundSockets]:
        """Binds the sockets that the server listens on, and closes them at the end.

        Raises:
            MllamaError: If a port or the path can't be used.
        """
        with contextlib.ExitStack() as stack:
            sockets = (
                bind(self.host, self.port) if self.uds is None else bind_unix(self.uds)
            )
            stack.callback(close, sockets, self.uds)
            metrics: list[socket.socket] = []
            if self.metrics_port is not None:
                metrics = bind(self.host, self.metrics_port, "--metrics-port")
                stack.callback(close, metrics)
            yield BoundSockets(sockets, metrics)
