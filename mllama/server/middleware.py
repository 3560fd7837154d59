"""Our checks on MAX Serve's requests, and image tokens in its answers' usage.

A middleware inside MAX's own, so that MAX's limit on the size of a body holds, and
its request id is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, HTTPException
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama.server.request_validation import (
    CHECKED_PATHS,
    UNAVAILABLE_PREFIXES,
    RequestRejected,
    ServerCapabilities,
    adapted,
    check,
)

_UNEXPLAINED = "Value error."
"""MAX's whole message for any ``ValueError``, an image that its URL lacks for one."""

_ERROR_TYPES = {404: "not_found_error"}


class RequestValidationMiddleware:
    """Refuses what MAX Serve would ignore, with an OpenAI-style error.

    Args:
        app: The application to guard.
        features: What the server can do, asked for on every request.
        image_tokens: Vision tokens of a running request, by its id.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        features: Callable[[], ServerCapabilities],
        image_tokens: MutableMapping[str, int],
    ) -> None:
        self._app = app
        self._features = features
        self._image_tokens = image_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        try:
            if path.startswith(UNAVAILABLE_PREFIXES):
                raise RequestRejected(
                    f"{path} is not available: this server runs a chat model.",
                    status=404,
                )
            if scope["method"] == "POST" and path in CHECKED_PATHS:
                receive = await self._checked(path, receive)
                send = self._counted(scope, send)
        except RequestRejected as refusal:
            await _error(refusal)(scope, receive, send)
            return
        except StarletteHTTPException as error:
            # MAX's limit on bodies, which its handler is too far inside to catch.
            await _error(RequestRejected(error.detail, status=error.status_code))(
                scope, receive, send
            )
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._image_tokens.pop(_request_id(scope), None)

    async def _checked(self, path: str, receive: Receive) -> Receive:
        """Reads and checks the body; returns what hands it on.

        Raises:
            RequestRejected: If the request asks for something that it would not get.
        """
        raw = await _read_body(receive)
        try:
            body = json.loads(raw)
        except ValueError:
            return _replay(raw, receive)  # MAX says what is wrong with it.
        if not isinstance(body, dict):
            return _replay(raw, receive)
        features = self._features()
        check(path, body, features)
        changed = adapted(body, features)
        if changed != body:
            raw = json.dumps(changed).encode()
        return _replay(raw, receive)

    def _counted(self, scope: Scope, send: Send) -> Send:
        """Adds ``image_tokens`` to the ``prompt_tokens_details`` of an answer."""
        start: Message | None = None

        async def counting_send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                # Held back, as its content-length depends on the body.
                start = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            images = self._image_tokens.get(_request_id(scope), 0)
            body = message.get("body", b"")
            if images and b'"prompt_tokens_details"' in body:
                body = _with_image_tokens(body, images)
            if start is not None:
                if not message.get("more_body", False):
                    _set_length(start, len(body))
                await send(start)
                start = None
            await send({**message, "body": body})

        return counting_send


def explain_value_errors(app: FastAPI) -> None:
    """Says what was wrong where MAX's routes answer no more than "Value error."."""
    answer: Any = app.exception_handlers[HTTPException]

    async def explained(request: Request, error: Any) -> Response:
        if error.detail == _UNEXPLAINED and error.__cause__ is not None:
            explanation = " ".join(str(error.__cause__).split())
            error = HTTPException(error.status_code, explanation, error.headers)
        response: Response = await answer(request, error)
        return response

    app.add_exception_handler(HTTPException, explained)


def _with_image_tokens(body: bytes, images: int) -> bytes:
    """A JSON answer, or one server-sent event, with its image tokens counted."""
    prefix, brace, rest = body.partition(b"{")
    try:
        answer, end = json.JSONDecoder().raw_decode((brace + rest).decode())
    except ValueError:
        return body
    details = (answer.get("usage") or {}).get("prompt_tokens_details")
    if details is None:
        return body
    details["image_tokens"] = images
    tail = (brace + rest).decode()[end:]
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return prefix + (text + tail).encode()


def _set_length(start: Message, length: int) -> None:
    start["headers"] = [
        (name, str(length).encode() if name.lower() == b"content-length" else value)
        for name, value in start["headers"]
    ]


def _request_id(scope: Scope) -> str:
    return str(scope.get("state", {}).get("request_id", ""))


async def _read_body(receive: Receive) -> bytes:
    parts = []
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands on a body that was read already, then what comes after it."""
    handed = False

    async def replayed() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _error(refusal: RequestRejected) -> JSONResponse:
    code: Any = "model_not_found" if refusal.param == "model" else str(refusal.status)
    return JSONResponse(
        status_code=refusal.status,
        content={
            "error": {
                "message": str(refusal),
                "type": _ERROR_TYPES.get(refusal.status, "invalid_request_error"),
                "param": refusal.param,
                "code": code,
            }
        },
    )
