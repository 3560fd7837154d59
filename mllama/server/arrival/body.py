"""Gets a request's body, in a form and of a size that the server takes."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from mllama.max_compat.server import ClientDisconnected
from mllama.server.arrival.shared_memory import SMALL_BODY, memory_of
from mllama.server.bodies.rejection import RequestRejected

_LARGEST: Final = 256 << 20
"""What a body whose size isn't known is taken for, in bytes."""

_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


async def arrived_body(request: Request) -> bytearray:
    """Returns a request's body, which is in memory once.

    A large one waits until those of other requests leave room for it.

    Raises:
        RequestRejected: If it is compressed, or in another charset than UTF-8.
        HTTPException: If it is larger than the server takes.
        ClientDisconnected: If the client went away before its end.
    """
    _check_encoding(request.headers)
    try:
        return await _read(request)
    except ClientDisconnect:
        raise ClientDisconnected from None


async def _read(request: Request) -> bytearray:
    headers = request.headers
    declared = headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() and len(declared) < 16 else _LARGEST
    body = bytearray()
    stream = request.stream()
    if size > SMALL_BODY:
        # A body of a size that isn't known may well be small.
        async for chunk in stream:
            body += chunk
            if len(body) > SMALL_BODY:
                break
        else:
            return body
        await memory_of(request).take_body(min(size, _LARGEST))
    async for chunk in stream:
        body += chunk
    memory_of(request).shrink_body(len(body))
    return body


def _check_encoding(headers: Headers) -> None:
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestRejected(
            f"A body in the encoding {encoding[:40]!r} is not supported; send it "
            "without a Content-Encoding.",
            code="unsupported_media_type",
            status=415,
        )
    charset = _charset(headers.get("content-type", ""))
    if charset and charset not in _CHARSETS:
        raise RequestRejected(
            f"A body in the charset {charset[:40]!r} is not supported; send UTF-8.",
            code="unsupported_media_type",
            status=415,
        )


def _charset(content_type: str) -> str:
    """Returns the charset that a content type names, in lower case."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return ""
