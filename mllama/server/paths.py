"""Paths of requests."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


def path_below_root(scope: Scope) -> str:
    """Returns a request's path without the root path, which a proxy may put before it.

    Args:
        scope: The ASGI scope of the request.
    """
    path: str = scope["path"]
    root = str(scope.get("root_path", "")).rstrip("/")
    if root and path == root:
        return "/"
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


class RootPath:
    """Tells an application the path under which a proxy has it.

    The proxy may pass the path on, or take it off.  uvicorn's option of this name puts
    it before each path, as if all proxies took it off.

    Args:
        app: Gets the requests.
        root_path: The path; empty without one.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        await self._app({**scope, "root_path": self._root_path}, receive, send)
