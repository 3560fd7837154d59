"""Who a client is, to share the server fairly between clients."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

_STATE: Final = "client_id"
"""Where a request's state has the client that the access middleware recognized."""

_IPV6_NETWORK_BITS: Final = 64
"""One customer has such a network, and any number of addresses in it."""


@dataclass(frozen=True)
class ClientId:
    """A client: its key, else the address that it comes from.

    Attributes:
        key: The digest of its key, in hexadecimal digits; empty without one.
        address: Its address, or the network of an IPv6 address; empty with a key, and
            for those that come by a Unix socket without a proxy that names them.
    """

    key: str = ""
    address: str = ""


NOBODY: Final = ClientId()
"""Stands for what no HTTP request asked for, and for those that can't be told apart."""


def note_key(scope: Scope, digest: bytes) -> None:
    """Notes that a request's key is one of the server's.

    Args:
        scope: The ASGI scope of the request.
        digest: The key's digest.
    """
    scope.setdefault("state", {})[_STATE] = ClientId(key=digest.hex())


def client_of(scope: Scope) -> ClientId:
    """Returns who sent a request.

    A key that the server doesn't check says nothing, and the address counts.

    Args:
        scope: The ASGI scope of the request.
    """
    known = scope.get("state", {}).get(_STATE)
    if isinstance(known, ClientId):
        return known
    host, _ = scope.get("client") or ("", 0)
    return ClientId(address=_network(host)) if host else NOBODY


def _network(host: str) -> str:
    try:
        # The address may have a zone.
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))


_current: Final[ContextVar[ClientId]] = ContextVar("mllama_client", default=NOBODY)


def current_client() -> ClientId:
    """Returns whom this task works for."""
    return _current.get()


@contextmanager
def working_for(client: ClientId) -> Iterator[None]:
    """Has this task, and those that it starts, work for a client."""
    token = _current.set(client)
    try:
        yield
    finally:
        _current.reset(token)
