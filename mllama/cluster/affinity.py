"""Keys by which requests go where their picture is, and the headers with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllama.cluster.messages import ImageContent
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.request import GenerationRequest

KEY_HEADER: Final = "X-Affinity-Key"
"""The header with a request's key: in responses, and in requests of clients that have
one."""

REPLICA_HEADER: Final = "X-Replica-ID"
"""The header of a response that names the replica which answers."""

_KEY: Final = re.compile(r"[!-~]{1,128}")
"""Keys of clients that are used: printable ASCII without spaces, of bounded length."""

_TEXT_BEGINNING: Final = 512
"""Characters, or tokens, of a prompt without messages that make its key."""


@dataclass
class RequestAffinity:
    """Where an HTTP request belongs.

    Attributes:
        given: The key that it came with, or None.
        key: The key that it was routed by, once it has been.
        replica: The replica that answers, once one does.
    """

    given: str | None = None
    key: str | None = None
    replica: str | None = None


_current: Final[ContextVar[RequestAffinity | None]] = ContextVar(
    "mllama_affinity", default=None
)


def current_affinity() -> RequestAffinity:
    """Returns that of the HTTP request which this task belongs to, or an empty one."""
    return _current.get() or RequestAffinity()


def affinity_key(request: GenerationRequest, images: Sequence[ImageContent]) -> str:
    """Returns the key of a request: what it shares with others that should meet.

    It is the SHA-256 of the first image's file, in hexadecimal digits.  Without an
    image it is that of the conversation's beginning, up to the first message of the
    user, so that all turns of a chat have the same one.

    Args:
        request: The request.
        images: Its images in order.
    """
    if images:
        return images[0].digest
    prompt = request.prompt
    if isinstance(prompt, ChatPrompt):
        beginning: list[object] = []
        for message in prompt.messages:
            beginning.append(message)
            if message.get("role") == "user":
                break
        text = json.dumps(beginning, sort_keys=True, default=str)
    elif isinstance(prompt, str):
        text = prompt[:_TEXT_BEGINNING]
    else:
        text = json.dumps(list(prompt[:_TEXT_BEGINNING]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class AffinityMiddleware:
    """Reads the key of a request, and adds that of its routing to the response.

    Args:
        app: Answers the requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(KEY_HEADER, "")
        affinity = RequestAffinity(given if _KEY.fullmatch(given) else None)

        async def send_with_key(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if affinity.key is not None:
                    headers[KEY_HEADER] = affinity.key
                if affinity.replica is not None:
                    headers[REPLICA_HEADER] = affinity.replica
            await send(message)

        token = _current.set(affinity)
        try:
            await self._app(scope, receive, send_with_key)
        finally:
            _current.reset(token)
