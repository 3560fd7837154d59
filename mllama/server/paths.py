"""Paths of requests."""

from __future__ import annotations

from starlette.types import Scope


def path_below_root(scope: Scope) -> str:
    """Returns a request's path without the root path, which a proxy may put before it.

    Args:
        scope: The ASGI scope of the request.
    """
    path: str = scope["path"]
    root = str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path
