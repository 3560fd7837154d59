"""What decides whether a request is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mllama.server.access.hosts import AllowedHosts
from mllama.server.access.keys import KeyRing

PROBES: Final = ("/health", "/ping")
"""Paths, with those below them, that need no key."""

METRICS: Final = "/metrics"
"""The path, with those below it, that needs no key on this machine."""

ADMIN_PATHS: Final = ("/reset_prefix_cache",)
"""Paths that change the server's state, which only the administrator's key opens."""


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """Who may use the server.

    Attributes:
        keys: Keys of which a request needs one; none are needed if there are none.
        admin_keys: Keys for :data:`ADMIN_PATHS`, which don't exist without one.
        origins: Origins of web pages that may use the server, beside its own; ``*`` is
            any.
        hosts: Names that the ``Host`` header may have; None is any.
        has_page: Whether the server has the page, which needs no key.
    """

    keys: KeyRing = field(default_factory=lambda: KeyRing(()))
    admin_keys: KeyRing = field(default_factory=lambda: KeyRing(()))
    origins: Sequence[str] = ()
    hosts: AllowedHosts | None = None
    has_page: bool = False


def is_at(path: str, *places: str) -> bool:
    """Returns True if a path is one of these places, or below it."""
    return any(path == place or path.startswith(f"{place}/") for place in places)
