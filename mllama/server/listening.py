"""The sockets that the server listens on, bound before the model is loaded."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mllama.errors import MllamaError

_REASONS: Final = {
    errno.EADDRINUSE: "is already in use; choose another {option}",
    errno.EACCES: "may not be used by this user; choose a {option} from 1024 up",
    errno.EADDRNOTAVAIL: "is no address of this machine; choose another --host",
}


def bind(host: str, port: int, option: str = "--port") -> list[socket.socket]:
    """Returns sockets that are bound to all addresses of a host.

    Nobody can connect before the server listens on them.

    Args:
        host: A name or an address.
        port: A port; 0 is any that is free.
        option: The option that the port comes from.

    Raises:
        MllamaError: If the host is unknown, or the port can't be used.
    """
    if not 0 <= port <= 65535:
        raise MllamaError(f"{option} must be from 0 to 65535, not {port}")
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            if sockets and port == 0:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sockets.append(_bound(family, address))
            except OSError as error:
                # A system may resolve localhost to ::1, too, but have no IPv6.
                if sockets and error.errno == errno.EADDRNOTAVAIL:
                    continue
                reason = _REASONS.get(error.errno or 0, f"can't be used: {error}")
                reason = reason.format(option=option)
                raise MllamaError(f"{host}, port {port}, {reason}") from error
    except BaseException:
        close(sockets)
        raise
    return sockets


def _addresses(host: str, port: int) -> Sequence[tuple[int, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise MllamaError(f"--host {host} can't be resolved: {error}") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # As asyncio does: 0.0.0.0 and :: may be bound side by side.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def bind_unix(path: str) -> list[socket.socket]:
    """Returns a Unix socket that is bound to a path.

    A socket that a server left behind is replaced.

    Raises:
        MllamaError: If a server listens there, or the path can't be used.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_socket(path):
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
                if client.connect_ex(path) == 0:
                    raise MllamaError(f"a server listens on --uds {path} already")
            os.unlink(path)
        bound.bind(path)
    except OSError as error:
        bound.close()
        raise MllamaError(f"--uds {path} can't be used: {error}") from error
    except BaseException:
        bound.close()
        raise
    return [bound]


def _is_socket(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    return False


def close(sockets: Sequence[socket.socket], path: str | None = None) -> None:
    """Closes sockets.

    Args:
        sockets: The sockets, which may be closed already.
        path: The file of a Unix socket among them, which is removed.
    """
    for each in sockets:
        each.close()
    if path is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)


def address_text(bound: socket.socket, scheme: str) -> str:
    """Returns where a bound socket can be reached: a URL, or a Unix socket's path."""
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
