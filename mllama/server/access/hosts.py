"""Names by which a server on this machine may be called."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

_LOCAL_SUFFIXES: Final = (".localhost", ".internal", ".local")
"""Names that no public name server answers for."""


def is_loopback(host: str) -> bool:
    """Returns True if an address, or a name, is of the loopback interface."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """Returns the name in a ``Host`` header, without its port."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[: header.find("]") + 1]
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdigit() else header).rstrip(".")


class AllowedHosts:
    """Names that ``Host`` may have on a server that listens on loopback.

    A web page whose name an attacker lets point to this machine (DNS rebinding) sends
    its own name.

    Args:
        names: Further names.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {host_name(name) for name in (*names, socket.gethostname())}

    def accepts(self, header: str | None) -> bool:
        """Returns True if a request may have this header."""
        if not header:
            # HTTP/1.0 has none, and browsers always send one.
            return True
        name = host_name(header)
        return (
            name in self._names or name.endswith(_LOCAL_SUFFIXES) or is_loopback(name)
        )
