"""The addresses of clients behind a proxy that comes by a Unix socket."""

from __future__ import annotations

import os
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_LOOPBACK: Final = "127.0.0.1"
_PROXY: Final = (_LOOPBACK, 0)
"""Stands for whoever has connected, who has no address."""


class UnixPeers:
    """Believes a proxy on a Unix socket as uvicorn believes one on loopback.

    Without ``X-Forwarded-For``, a client has no address: it may be on another machine.

    Args:
        app: Gets the requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        trusted = os.environ.get("FORWARDED_ALLOW_IPS", _LOOPBACK)
        inner: Any = self._without_own_address
        self._proxied: Any = ProxyHeadersMiddleware(inner, trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] == "http" and not (scope.get("client") or ("",))[0]:
            scope["client"] = _PROXY
        await self._proxied(scope, receive, send)

    async def _without_own_address(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope.get("client") == _PROXY:
            scope["client"] = None
        await self._app(scope, receive, send)
