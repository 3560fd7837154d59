"""Refuses requests before anything of them is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mllama.server.access.cors import origin_refusal
from mllama.server.access.hosts import is_loopback
from mllama.server.access.keys import key_digest, key_of
from mllama.server.access.origins import ANY, is_same_origin
from mllama.server.access.policy import (
    ADMIN_PATHS,
    METRICS,
    PROBES,
    AccessPolicy,
    is_at,
)
from mllama.server.clients import client_of, note_key, working_for
from mllama.server.errors import ErrorForm, ErrorReport
from mllama.server.observability.request_record import Outcome, current_record
from mllama.server.paths import path_below_root
from mllama.server.web.requests import is_page_request

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods without a body."""


class AccessMiddleware:
    """Answers requests that the policy refuses.

    Args:
        app: Gets the others.
        policy: Who may use the server.
        form_of: Returns the form of a request's errors.
    """

    def __init__(
        self, app: ASGIApp, policy: AccessPolicy, form_of: Callable[[Scope], ErrorForm]
    ) -> None:
        self._app = app
        self._policy = policy
        self._form_of = form_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        report = self._refusal(scope)
        if report is None:
            with working_for(client_of(scope)):
                await self._app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer"} if report.status == 401 else None
        if (record := current_record()) is not None:
            record.note_failure(Outcome.CLIENT_ERROR, report.code)
            report = replace(report, request_id=record.visible_id)
        content = self._form_of(scope).content(report)
        await JSONResponse(content, report.status, headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ErrorReport | None:
        headers = Headers(scope=scope)
        return (
            self._wrong_host(headers)
            or self._wrong_origin(scope, headers)
            or self._wrong_key(scope, headers)
        )

    def _wrong_host(self, headers: Headers) -> ErrorReport | None:
        hosts, host = self._policy.hosts, headers.get("host")
        if hosts is None or hosts.accepts(host):
            return None
        return ErrorReport(
            403,
            f"This server doesn't answer to the name {str(host)[:200]!r}; start it "
            "with --allowed-host NAME, or with --host 0.0.0.0 for other machines.",
            code="host_not_allowed",
        )

    def _wrong_origin(self, scope: Scope, headers: Headers) -> ErrorReport | None:
        origin = headers.get("origin")
        if origin is None:
            return None
        allowed = self._policy.origins
        if (
            ANY not in allowed
            and origin.lower() not in allowed
            and not is_same_origin(origin, headers.get("host"))
        ):
            return origin_refusal(origin)
        if scope["method"] in _READING or _was_asked_for(scope["method"], headers):
            return None
        return ErrorReport(
            415,
            "A web page's request must have the content type application/json, or a "
            "key: `Authorization: Bearer KEY`, or the header `x-api-key`.",
            code="unsupported_media_type",
        )

    def _wrong_key(self, scope: Scope, headers: Headers) -> ErrorReport | None:
        path = path_below_root(scope)
        if is_at(path, *ADMIN_PATHS):
            keys, name = self._policy.admin_keys, "the administrator's key"
            if not keys:
                return None
        else:
            keys, name = self._policy.keys, "a key"
            if not keys or self._is_open(path, scope, headers):
                return None
        key = key_of(headers)
        if key is not None and keys.accepts(key):
            note_key(scope, key_digest(key))
            return None
        return ErrorReport(
            401,
            f"This server needs {name}: send `Authorization: Bearer KEY`, or the "
            "header `x-api-key`."
            if key is None
            else "The key is wrong.",
            code="invalid_api_key",
        )

    def _is_open(self, path: str, scope: Scope, headers: Headers) -> bool:
        """Returns True if a request needs no key."""
        if scope["method"] == "OPTIONS" or is_at(path, *PROBES):
            return True
        if self._policy.has_page and is_page_request(path, scope["method"], headers):
            return True
        address, _ = scope.get("client") or ("", 0)
        return is_at(path, METRICS) and is_loopback(address)


def _was_asked_for(method: str, headers: Headers) -> bool:
    """Returns True if a browser asks the server before it sends such a request.

    Browsers send forms and plain texts to any server at once.  They ask before other
    methods, types and headers (CORS preflight).  They add an ``Authorization`` of
    another scheme by themselves.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return method != "POST" or kind == "application/json" or key_of(headers) is not None
