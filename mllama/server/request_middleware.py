"""Names requests, and records how each of them ends: the outermost middleware."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama.max_compat.server import ClientDisconnected
from mllama.server.access.policy import METRICS as METRICS_PATH
from mllama.server.access.policy import PROBES, is_at
from mllama.server.errors import ErrorForm, UnforeseenError, error_response
from mllama.server.observability.access_log import log_request
from mllama.server.observability.metrics import METRICS
from mllama.server.observability.request_record import (
    Outcome,
    RequestRecord,
    client_request_id,
    recording,
)
from mllama.server.observability.tracing import RequestSpan
from mllama.server.paths import path_below_root
from mllama.server.web.requests import FILES_PATH

logger = logging.getLogger("mllama")

ID_HEADERS: Final = ("x-request-id", "request-id")
"""Headers with a response's id: where OpenAI's clients look for it, and Anthropic's."""

CLIENT_CLOSED_REQUEST: Final = 499
"""The status of requests whose clients went away, which nobody reads."""

_QUIET: Final = (*PROBES, METRICS_PATH, FILES_PATH, "/version")
"""Paths that are asked again and again, and are recorded only if they fail."""


class RequestMiddleware:
    """Names requests and records them.

    A request has an id of this server's own, which is unique and names it in the
    engine and in logs.  A client that sends ``X-Request-Id`` gets that one back.

    Args:
        app: Answers the requests.
        form_of: Returns the form of a request's errors.
        dialect_of: Returns the name of the API that a request came by.
        logs_requests: Whether each request has a line in the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        form_of: Callable[[Scope], ErrorForm],
        dialect_of: Callable[[Scope], str],
        logs_requests: bool = True,
    ) -> None:
        self._app = app
        self._form_of = form_of
        self._dialect_of = dialect_of
        self._logs_requests = logs_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, and records it when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        address, _ = scope.get("client") or ("", 0)
        record = RequestRecord(
            client_id=client_request_id(headers.get("x-request-id")),
            method=scope["method"],
            client=address,
        )
        scope.setdefault("state", {})["request_id"] = record.id
        is_quiet = is_at(path_below_root(scope), *_QUIET)
        with recording(record):
            span = None if is_quiet else RequestSpan.start(record, scope, headers)
            try:
                await self._answer(record, scope, receive, send)
            finally:
                self._record_end(record, scope, span, is_quiet)

    async def _answer(
        self, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def receive_noted() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not record.is_complete:
                record.client_left = True
            return message

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name in ID_HEADERS:
                    headers[name] = record.visible_id
            await send(message)
            if message["type"] == "http.response.body":
                record.is_complete = not message.get("more_body", False)

        try:
            await self._app(scope, receive_noted, send_named)
        except (ClientDisconnect, ClientDisconnected):
            record.client_left = True
            if not record.status:
                response = Response(status_code=CLIENT_CLOSED_REQUEST)
                await response(scope, receive, send_named)
                record.is_complete = False
        except Exception as error:
            # The server closes the connection of a response that has begun.
            logger.error("a request failed unexpectedly", exc_info=error)
            if record.status:
                record.note_failure(Outcome.ERROR, None)
            else:
                failed = error_response(UnforeseenError(), self._form_of(scope))
                await failed(scope, receive, send_named)

    def _record_end(
        self,
        record: RequestRecord,
        scope: Scope,
        span: RequestSpan | None,
        is_quiet: bool,
    ) -> None:
        # The template of the path: the path itself is the client's choice.
        route = getattr(scope.get("route"), "path", None)
        outcome = record.outcome
        if span is not None:
            span.end(route)
        if is_quiet and outcome in (Outcome.OK, Outcome.CANCELLED):
            return
        dialect = "none" if route is None or is_quiet else self._dialect_of(scope)
        METRICS.count_request(dialect, route or "none", outcome)
        if record.answers and outcome is Outcome.OK:
            METRICS.request_latency.labels(dialect).observe(record.seconds())
            METRICS.prompt_lengths.observe(record.prompt_tokens)
            METRICS.generation_lengths.observe(record.generated_tokens)
        if self._logs_requests:
            log_request(record, route, outcome)
