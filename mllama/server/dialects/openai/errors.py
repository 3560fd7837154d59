"""Errors in the form of OpenAI's API.

Every error, of a route that doesn't exist too, is an object ``error`` with ``message``,
``type``, ``param`` and ``code``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from mllama.errors import (
    EngineError,
    EngineOverloadedError,
    ImageError,
    MllamaError,
    RequestError,
)

logger = logging.getLogger("mllama")

BODY_NAMES = {
    "max_new_tokens": "max_tokens",
    "choices": "n",
}
"""Names in bodies of values that have another name in this package."""


class RequestRejected(Exception):
    """A request that the server rejects.

    Attributes:
        status: HTTP status of the response.
        param: Path of the wrong field, such as ``messages[0].content``, or None.
        code: OpenAI's word for the kind of error, or None.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        code: str | None = None,
        status: int = 400,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


def error_object(error: Exception) -> tuple[int, dict[str, Any]]:
    """Returns the status and the JSON of an error; an unforeseen one is a 500.

    Args:
        error: What a route has raised.
    """
    if isinstance(error, RequestRejected):
        return _object(error.status, str(error), error.param, error.code)
    if isinstance(error, HTTPException):
        return _object(error.status_code, str(error.detail))
    if isinstance(error, RequestError):
        param = BODY_NAMES.get(error.param or "", error.param)
        return _object(400, str(error), param, "invalid_value")
    if isinstance(error, ImageError):
        path = getattr(error, "path", "messages")
        return _object(400, str(error), path, "invalid_image")
    if isinstance(error, MllamaError):
        return _object(400, str(error))
    if isinstance(error, EngineOverloadedError):
        return _object(429, str(error), code="rate_limit_exceeded")
    if isinstance(error, EngineError):
        return _object(500, str(error))
    return _object(500, "The server failed on this request; its log has the reason.")


def log_failure(error: Exception) -> None:
    """Logs an error that isn't the request's fault."""
    status, _ = error_object(error)
    if status >= 500:
        # Where an engine's error was raised says nothing; the engine logs its cause.
        is_engines = isinstance(error, EngineError)
        logger.error(
            "a request failed: %s", error, exc_info=None if is_engines else error
        )


def error_response(error: Exception) -> JSONResponse:
    """Returns the response to a request that raised an error."""
    status, content = error_object(error)
    headers = dict(getattr(error, "headers", None) or {})
    if status == 429:
        headers.setdefault("Retry-After", "1")
    return JSONResponse(content, status, headers=headers)


async def with_error_event(
    events: AsyncIterable[bytes],
) -> AsyncGenerator[bytes, None]:
    """Yields server-sent events; an error among them becomes the last one."""
    try:
        async for event in events:
            yield event
    except Exception as error:
        log_failure(error)
        _, content = error_object(error)
        yield f"data: {json.dumps(content)}\n\n".encode()


def add_error_handlers(app: FastAPI) -> None:
    """Gives errors of all of an application's routes this form."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException):
            error = _explained(request, error)
        log_failure(error)
        return error_response(error)

    for kind in (HTTPException, RequestRejected, MllamaError, EngineError):
        app.add_exception_handler(kind, answer)
    # Of FastAPI's own, which is more special than Starlette's.
    for handled in list(app.exception_handlers):
        if isinstance(handled, type) and issubclass(handled, HTTPException):
            app.add_exception_handler(handled, answer)


def _explained(request: Request, error: HTTPException) -> HTTPException:
    """Returns an error whose message names the path, if there is no such route, or the
    setting that raises the limit, if the body is too large."""
    if error.status_code == 413:
        detail = f"{str(error.detail).rstrip('.')} (MAX_SERVE_MAX_REQUEST_BYTES)."
        return HTTPException(413, detail, error.headers)
    reasons = {404: "Not Found", 405: "Method Not Allowed"}
    if reasons.get(error.status_code) != error.detail:
        return error
    route = f"{request.method} {request.url.path[:200]}"
    detail = (
        f"There is no {request.url.path[:200]} on this server."
        if error.status_code == 404
        else f"{route} is not possible; {request.url.path[:200]} takes "
        f"{dict(error.headers or {}).get('Allow', 'another method')}."
    )
    return HTTPException(error.status_code, detail, error.headers)


def _object(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> tuple[int, dict[str, Any]]:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    if status >= 500:
        kind = "server_error"
    # A message may quote what a client sent, which needs not be valid Unicode.
    text = message.encode("utf-8", "replace").decode()
    return status, {
        "error": {"message": text, "type": kind, "param": param, "code": code}
    }
