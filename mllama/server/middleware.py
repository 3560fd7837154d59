"""Middleware that validates requests and adds image tokens to the usage of responses.

It runs inside MAX's middleware, which limits the size of bodies and assigns request
ids.
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

from mllama.server.inline_images import InlineImages, image_urls
from mllama.server.request_validation import (
    UNAVAILABLE_PREFIXES,
    VALIDATED_PATHS,
    RequestRejected,
    ServerCapabilities,
    normalize,
    validate,
)

_GENERIC_DETAIL = "Value error."
"""MAX's whole message for any ``ValueError``, such as one for an unreachable image."""

_ERROR_TYPES = {404: "not_found_error"}


class RequestValidationMiddleware:
    """Rejects requests that MAX Serve would not honor, with an OpenAI-style error.

    Args:
        app: The application that handles valid requests.
        capabilities: Returns the server's capabilities; called for every request.
        image_tokens: Image tokens of each running request, by request id.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        capabilities: Callable[[], ServerCapabilities],
        image_tokens: MutableMapping[str, int],
        inline_images: InlineImages,
    ) -> None:
        self._app = app
        self._capabilities = capabilities
        self._image_tokens = image_tokens
        self._inline_images = inline_images

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        detached: list[str] = []
        try:
            await self._handle(path, scope, receive, send, detached)
        finally:
            self._image_tokens.pop(_request_id(scope), None)
            self._inline_images.discard(detached)

    async def _handle(
        self, path: str, scope: Scope, receive: Receive, send: Send, detached: list[str]
    ) -> None:
        try:
            if path.startswith(UNAVAILABLE_PREFIXES):
                raise RequestRejected(
                    f"{path} is not available: this server runs a chat model.",
                    status=404,
                )
            if scope["method"] == "POST" and path in VALIDATED_PATHS:
                receive = await self._validated(path, receive, detached)
                send = self._with_usage(scope, send)
        except RequestRejected as rejection:
            await _error_response(rejection)(scope, receive, send)
            return
        except StarletteHTTPException as error:
            # MAX's limit on bodies raises this outside of MAX's exception handlers.
            too_large = RequestRejected(error.detail, status=error.status_code)
            await _error_response(too_large)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _validated(
        self, path: str, receive: Receive, detached: list[str]
    ) -> Receive:
        """Validates the body, and returns a function that receives the valid one.

        Args:
            path: The request's path.
            receive: Receives the body.
            detached: Gets the URLs that replace images in the body.

        Raises:
            RequestRejected: If a field is invalid or not supported.
        """
        raw = await _read_body(receive)
        short, urls = self._inline_images.detach(raw)
        detached += urls
        try:
            body = json.loads(short)
            if urls and not _are_images(urls, body):
                # Somewhere else, such as in a text, they must stay what they are.
                short, body = raw, json.loads(raw)
        except ValueError:
            return _replay(raw, receive)  # MAX explains what is wrong with it.
        raw = short
        if not isinstance(body, dict):
            return _replay(raw, receive)
        capabilities = self._capabilities()
        validate(path, body, capabilities)
        normalized = normalize(body, capabilities)
        if normalized != body:
            raw = json.dumps(normalized).encode()
        return _replay(raw, receive)

    def _with_usage(self, scope: Scope, send: Send) -> Send:
        """Returns a function that sends ``image_tokens`` in the usage of responses."""
        start: Message | None = None

        async def send_with_usage(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                # Sent with the body, on which its content-length depends.
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

        return send_with_usage


def explain_value_errors(app: FastAPI) -> None:
    """Replaces MAX's bare "Value error." with the message of the error."""
    answer: Any = app.exception_handlers[HTTPException]

    async def explain(request: Request, error: Any) -> Response:
        if error.detail == _GENERIC_DETAIL and error.__cause__ is not None:
            explanation = " ".join(str(error.__cause__).split())
            error = HTTPException(error.status_code, explanation, error.headers)
        response: Response = await answer(request, error)
        return response

    app.add_exception_handler(HTTPException, explain)


def _with_image_tokens(body: bytes, images: int) -> bytes:
    """Adds image tokens to the usage in a JSON response or a server-sent event."""
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


def _are_images(urls: list[str], body: Any) -> bool:
    """Returns True if all of these URLs are images of the messages, each once."""
    found = image_urls(body) if isinstance(body, dict) else []
    return sorted(url for url in found if url in urls) == sorted(urls)


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
    """Returns a function that receives a body read before, then later messages."""
    was_sent = False

    async def replay() -> Message:
        nonlocal was_sent
        if was_sent:
            return await receive()
        was_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _error_response(rejection: RequestRejected) -> JSONResponse:
    code: Any = (
        "model_not_found" if rejection.param == "model" else str(rejection.status)
    )
    return JSONResponse(
        status_code=rejection.status,
        content={
            "error": {
                "message": str(rejection),
                "type": _ERROR_TYPES.get(rejection.status, "invalid_request_error"),
                "param": rejection.param,
                "code": code,
            }
        },
    )
