"""Refuses requests with more headers than a client needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama.server.errors import ErrorForm, ErrorReport

MAX_HEADERS: Final = 200
MAX_HEAD_BYTES: Final = 64 << 10
"""The largest path and headers of a request together."""


class RequestHeadMiddleware:
    """Answers requests whose head is too large.

    Args:
        app: Gets the others.
        form_of: Returns the form of a request's errors.
    """

    def __init__(self, app: ASGIApp, form_of: Callable[[Scope], ErrorForm]) -> None:
        self._app = app
        self._form_of = form_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http" or _is_small(scope):
            await self._app(scope, receive, send)
            return
        report = ErrorReport(
            431,
            f"A request may have {MAX_HEADERS} headers, and {MAX_HEAD_BYTES} bytes of "
            "path and headers together.",
            code="headers_too_large",
            request_id=scope.get("state", {}).get("request_id"),
        )
        content = self._form_of(scope).content(report)
        response = JSONResponse(content, 431, {"Connection": "close"})
        await response(scope, receive, send)


def _is_small(scope: Scope) -> bool:
    headers = scope["headers"]
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    return len(headers) <= MAX_HEADERS and (
        size + sum(len(name) + len(value) for name, value in headers) <= MAX_HEAD_BYTES
    )
