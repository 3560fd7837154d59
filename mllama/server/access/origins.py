"""Web pages that may use the server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mllama.errors import MllamaError

ANY: Final = "*"
"""Stands for all origins."""

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")


def checked_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Returns origins as browsers write them.

    Raises:
        MllamaError: If one is no origin.
    """
    found = []
    for origin in origins:
        plain = origin.lower().rstrip("/")
        if plain not in (ANY, "null") and not _ORIGIN.fullmatch(plain):
            raise MllamaError(
                f"--cors-origin must be like https://example.org, or * for any page, "
                f"not {origin!r}"
            )
        found.append(plain)
    return tuple(dict.fromkeys(found))


def is_same_origin(origin: str, host: str | None) -> bool:
    """Returns True if a page is of this server.

    The scheme isn't compared: a proxy in front may end TLS.

    Args:
        origin: The ``Origin`` header.
        host: The ``Host`` header.
    """
    _, separator, name = origin.lower().partition("://")
    return bool(separator and host) and name == str(host).lower()
