"""Errors of connections, in the form of the API whose path was asked for."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import h11
from starlette.datastructures import Headers
from starlette.types import Scope

from mllama.server.errors import ErrorForm, ErrorReport
from mllama.server.observability.request_record import client_request_id

FormOf = Callable[[Scope], ErrorForm]
"""Returns the form of a request's errors by its ASGI scope."""

REQUEST_TIMEOUT: Final = ErrorReport(
    408, "The request took too long to arrive.", code="request_timeout"
)
BODY_TIMEOUT: Final = ErrorReport(
    408, "The body took too long to arrive.", code="request_timeout"
)
BODY_TOO_SLOW: Final = ErrorReport(
    408,
    "The body arrived too slowly while others waited to send theirs; try again later.",
    code="request_timeout",
)
HEAD_TOO_LARGE: Final = ErrorReport(
    431, "The path and headers are too large.", code="headers_too_large"
)
NO_HTTP: Final = ErrorReport(400, "The request is not valid HTTP.", code="invalid_http")
TINY_CHUNKS: Final = ErrorReport(
    400, "The body comes in too many tiny chunks.", code="chunks_too_small"
)
TOO_MANY_CONNECTIONS: Final = ErrorReport(
    503,
    "The server has too many connections; try again later.",
    code="service_unavailable",
)

_RETRY_SECONDS: Final = 1

_REQUEST_LINE: Final = re.compile(rb"[!-~]+ ([^ ?]+)[ ?]")
"""A method, and a path with what follows it; without, it may be half a path."""


def scope_of_head(head: bytes) -> dict[str, Any]:
    """Returns what is known of a request whose head is incomplete or wrong.

    Args:
        head: The bytes that have arrived, from the first one.

    Returns:
        An ASGI scope; its path is empty if it isn't known.
    """
    first, *lines = head.lstrip(b"\r\n").split(b"\n")
    found = _REQUEST_LINE.match(first)
    path = b"" if found is None else found[1]
    headers = []
    # What follows the last newline may be incomplete, too.
    for line in lines[:-1]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.append((name.strip().lower(), value.strip()))
    return {
        "type": "http",
        "path": unquote(path.decode("latin-1")),
        "root_path": "",
        "headers": headers,
    }


def refusal(
    report: ErrorReport, scope: Scope, form_of: FormOf
) -> tuple[h11.Response, h11.Data, h11.EndOfMessage]:
    """Returns a response that ends a connection.

    Args:
        report: What is wrong.
        scope: The ASGI scope of the request, or what is known of it.
        form_of: Returns the form of a request's errors.
    """
    asked = client_request_id(Headers(scope=scope).get("x-request-id"))
    request_id = asked or scope.get("state", {}).get("request_id") or uuid.uuid4().hex
    answer = form_of(scope).content(replace(report, request_id=request_id))
    content = json.dumps(answer).encode()
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(content))),
        ("connection", "close"),
        ("x-request-id", request_id),
        ("request-id", request_id),
    ]
    if report.status == 503:
        headers.append(("retry-after", str(_RETRY_SECONDS)))
    reason = HTTPStatus(report.status).phrase.encode()
    return (
        h11.Response(status_code=report.status, headers=headers, reason=reason),
        h11.Data(data=content),
        h11.EndOfMessage(),
    )
