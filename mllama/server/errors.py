"""Errors to responses, in the form of the API that a request came by."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from mllama.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    ImageError,
    MllamaError,
    PromptTooLongError,
    RequestError,
)
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.observability.request_record import (
    Outcome,
    current_record,
    outcome_of_status,
)

logger = logging.getLogger("mllama")


class UnforeseenError(Exception):
    """An error that nothing expects, which is its cause."""


HANDLED: Final = (
    HTTPException,
    RequestRejected,
    MllamaError,
    EngineError,
    UnforeseenError,
)
"""Errors of routes that become responses in the form of their API."""


@dataclass(frozen=True)
class ErrorReport:
    """What a response says about an error.

    Attributes:
        status: HTTP status.
        message: What is wrong, and the way out.
        param: Path of the wrong field, such as ``messages[0].content``, or None.
        code: OpenAI's word for the kind of error, or None.
        request_id: The id of the HTTP request, or None.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    request_id: str | None = None


class ErrorForm(Protocol):
    """How an API says what went wrong."""

    @property
    def answer(self) -> type[BaseModel]:
        """Returns the model of a response, for the API's schema."""
        ...

    @property
    def field_names(self) -> Mapping[str, str]:
        """Returns names in bodies of values that have another name in this package."""
        ...

    def content(self, report: ErrorReport) -> dict[str, Any]:
        """Returns the JSON of a response."""
        ...

    def event(self, report: ErrorReport) -> bytes:
        """Returns what ends a stream whose status has been sent."""
        ...


def error_report(error: Exception, field_names: Mapping[str, str]) -> ErrorReport:
    """Returns what a response says about an error; an unforeseen one is a 500.

    Args:
        error: What a route has raised.
        field_names: See :class:`ErrorForm`.
    """
    if isinstance(error, RequestRejected):
        return _report(error.status, str(error), error.param, error.code)
    if isinstance(error, HTTPException):
        return _report(error.status_code, str(error.detail))
    if isinstance(error, RequestError):
        param = field_names.get(error.param or "", error.param)
        is_too_long = isinstance(error, PromptTooLongError)
        code = "context_length_exceeded" if is_too_long else "invalid_value"
        return _report(400, str(error), param, code)
    if isinstance(error, ImageError):
        path = getattr(error, "path", "messages")
        return _report(400, str(error), path, "invalid_image")
    if isinstance(error, MllamaError):
        return _report(400, str(error))
    if isinstance(error, EngineOverloadedError):
        return _report(429, str(error), code="rate_limit_exceeded")
    if isinstance(error, EngineUnavailableError):
        return _report(503, str(error), code="service_unavailable")
    if isinstance(error, EngineError):
        return _report(500, str(error))
    return _report(500, "The server failed on this request; its log has the reason.")


def _report(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> ErrorReport:
    # A message may quote what a client sent, which needs not be valid Unicode.
    text = message.encode("utf-8", "replace").decode()
    return ErrorReport(status, text, param, code)


def log_failure(error: Exception) -> None:
    """Logs an error that isn't the request's fault."""
    if isinstance(error, EngineUnavailableError):
        # One line about the engine, and not one of each request, says why.
        return
    if error_report(error, {}).status >= 500:
        # Where an engine's error was raised says nothing; the engine logs its cause.
        # One with a status is planned.
        is_known = isinstance(error, (EngineError, HTTPException))
        logger.error(
            "a request failed: %s",
            getattr(error, "detail", error),
            exc_info=None if is_known else error,
        )


def _noted(error: Exception, form: ErrorForm) -> ErrorReport:
    """Returns the report of an error that ends the current request, and notes it."""
    report = error_report(error, form.field_names)
    record = current_record()
    if record is None:
        return report
    outcome = (
        Outcome.OVERLOADED
        if isinstance(error, EngineOverloadedError)
        else outcome_of_status(report.status)
    )
    record.note_failure(outcome, report.code)
    if report.status >= 500:
        # So that whoever asks about it can name it.
        report = replace(
            report, message=f"{report.message} (request {record.visible_id})"
        )
    return replace(report, request_id=record.visible_id)


def error_response(error: Exception, form: ErrorForm) -> JSONResponse:
    """Returns the response to a request that raised an error.

    Args:
        error: The error.
        form: The form of the API.
    """
    report = _noted(error, form)
    headers = dict(getattr(error, "headers", None) or {})
    if report.status in (429, 503):
        seconds = getattr(error, "retry_after", 1)
        headers.setdefault("Retry-After", str(seconds))
    return JSONResponse(form.content(report), report.status, headers=headers)


async def with_error_event(
    events: AsyncIterable[bytes], form: ErrorForm
) -> AsyncGenerator[bytes, None]:
    """Yields the parts of a stream; an error among them becomes the last one."""
    try:
        async for event in events:
            yield event
    except Exception as error:
        log_failure(error)
        yield form.event(_noted(error, form))


def add_error_handlers(app: FastAPI, form_of: Callable[[Scope], ErrorForm]) -> None:
    """Gives errors of all of an application's routes the form of their API.

    Args:
        app: The application.
        form_of: Returns the form of a request, of one without a route too.
    """

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException):
            error = _explained(request, error)
        log_failure(error)
        return error_response(error, form_of(request.scope))

    for kind in HANDLED:
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
