"""Tells browsers which web pages may use the server, and others why theirs may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import ALL_METHODS, CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama.server.errors import ErrorForm, ErrorReport
from mllama.server.observability.request_record import Outcome, current_record

_OF_THE_TEXT: Final = ("content-length", "content-type")


def origin_refusal(origin: str) -> ErrorReport:
    """Returns the error of a request that a web page of another origin makes."""
    return ErrorReport(
        403,
        f"Web pages of {origin[:200]!r} may not use this server; start it with "
        "--cors-origin ORIGIN to allow them.",
        code="origin_not_allowed",
    )


class CorsMiddleware(CORSMiddleware):
    """Starlette's, whose refusals are lines of text, with errors in the API's form.

    Args:
        app: Gets all requests but browsers' questions.
        origins: Origins of the web pages that may use the server; ``*`` is any.
        form_of: Returns the form of a request's errors.
    """

    def __init__(
        self,
        app: ASGIApp,
        origins: Sequence[str],
        form_of: Callable[[Scope], ErrorForm],
    ) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Request-ID", "Retry-After"],
        )
        self._form_of = form_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a browser's question (CORS preflight), or passes a request on."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if (
            scope.get("method") != "OPTIONS"
            or "origin" not in headers
            or "access-control-request-method" not in headers
        ):
            await super().__call__(scope, receive, send)
            return
        response = self.preflight_response(request_headers=headers)
        if response.status_code >= 400:
            report = self._report(headers)
            if (record := current_record()) is not None:
                record.note_failure(Outcome.CLIENT_ERROR, report.code)
                report = replace(report, request_id=record.visible_id)
            kept = {
                name: value
                for name, value in response.headers.items()
                if name not in _OF_THE_TEXT
            }
            content = self._form_of(scope).content(report)
            response = JSONResponse(content, report.status, kept)
        await response(scope, receive, send)

    def _report(self, headers: Headers) -> ErrorReport:
        """Returns what is wrong with a question that Starlette refuses."""
        if not self.is_allowed_origin(headers["origin"]):
            return origin_refusal(headers["origin"])
        method = headers["access-control-request-method"]
        if method not in ALL_METHODS:
            return ErrorReport(
                400,
                f"Web pages may not use the method {method[:40]!r}; they may use "
                f"{', '.join(ALL_METHODS)}.",
                code="invalid_value",
            )
        return ErrorReport(
            400,
            "Web pages of another network may not use this server.",
            code="invalid_value",
        )
