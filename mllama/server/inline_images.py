"""Keeps pictures in data: URLs apart from the JSON of requests.

MAX parses a request, decodes base64 and decodes pictures where the event loop or a few
default threads do it, one after another.  A photo of 10 MB holds the loop for tens of
milliseconds in each of the first two steps, and every stream of tokens with it.  Here a
body's long data: URLs are cut out before it is parsed, their base64 is decoded in a
thread, piece by piece, and the pictures themselves by
:mod:`mllama.images.preparation`, when the tokenizer asks for them.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mllama.max_compat.server import METRICS, DataUrl

_START: Final = b'"data:'
_LONG: Final = 64 * 1024
"""URLs that are shorter, in bytes, are parsed with the rest of the body."""

_HEADER: Final = 256
"""The longest part before a data: URL's comma, in bytes."""

_PIECE: Final = 256 * 1024
"""Base64 that is decoded at once, in bytes: a fraction of a millisecond."""

_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_IGNORED = b" \\"
"""Spaces, and the backslash of JSON's other form of a slash."""

Resolve = Callable[..., Any]


class InlineImages:
    """The long data: URLs of running requests, each under a short URL in its place."""

    def __init__(self) -> None:
        # Nobody can name the URL of another request.
        self._prefix = f"data:mllama-{secrets.token_hex(16)}-"
        self._count = 0
        self._payloads: dict[str, memoryview] = {}

    def __len__(self) -> int:
        """Returns the number of images that nobody has asked for yet."""
        return len(self._payloads)

    def detach(self, body: bytes) -> tuple[bytes, list[str]]:
        """Replaces long data: URLs in a JSON text with short ones.

        Returns:
            The JSON text, and the short URLs, which :meth:`discard` must get.
        """
        view, done = memoryview(body), 0
        parts: list[bytes | memoryview] = []
        urls: list[str] = []
        start = body.find(_START)
        while start >= 0:
            # A quote after a backslash is part of a text.
            end = body.find(b'"', start + len(_START))
            comma = body.find(b",", start, min(end, start + _HEADER))
            if (
                body[start - 1 : start] != b"\\"
                and end - start > _LONG
                and comma > 0
                and _has_only_slashes(body, start, end)
            ):
                url = f"{self._prefix}{self._count}"
                self._count += 1
                self._payloads[url] = view[comma + 1 : end]
                urls.append(url)
                parts += [view[done : start + 1], url.encode()]
                done = end
            start = body.find(_START, max(end, start + 1)) if end >= 0 else -1
        if not urls:
            return body, []
        return b"".join([*parts, view[done:]]), urls

    def discard(self, urls: list[str]) -> None:
        """Forgets URLs of a request that has ended."""
        for url in urls:
            self._payloads.pop(url, None)

    def resolve_with(self, original: Resolve) -> Resolve:
        """Returns the replacement of MAX's function that resolves a media reference.

        Args:
            original: MAX's function.
        """

        async def resolve(
            image_ref: Any,
            settings: Any,
            budget: Any = None,
            media_kind: str | None = None,
        ) -> bytes:
            url = image_ref.unicode_string() if image_ref.scheme == "data" else ""
            payload = self._payloads.pop(url, None)
            if payload is None:
                result: bytes = await original(image_ref, settings, budget, media_kind)
                return result
            started = time.perf_counter()
            try:
                content = await asyncio.to_thread(decode_base64, payload)
            except ValueError:
                # MAX is laxer about what it skips, and words its errors.
                text = payload.tobytes().decode("utf-8", "replace")
                return await original(
                    DataUrl(f"data:,{text}"), settings, budget, media_kind
                )
            budget.charge(len(content), media_kind)
            milliseconds = (time.perf_counter() - started) * 1000
            METRICS.media_items(media_kind, "inline")
            METRICS.media_resolve_time(milliseconds, "inline")
            METRICS.media_item_size(len(content), media_kind)
            return content

        return resolve


def headers_only(original: Callable[..., tuple[list[Any], Any]]) -> Callable[..., Any]:
    """Returns the replacement of MAX's function that decodes a request's pictures.

    It reads and checks their headers only.

    Args:
        original: MAX's function, which decodes what the tokenizer doesn't have yet.
    """

    def admit(
        images: list[bytes], limit: int | None, probe: Any, messages: Any, facts: Any
    ) -> tuple[list[None], None]:
        original(images, limit, lambda *_: [True] * len(images), messages, facts)
        # No mask: it would be counted as hits of a cache.
        return [None] * len(images), None

    return admit


def decode_base64(text: bytes | memoryview) -> bytes:
    """Decodes base64 without holding Python's lock for long.

    Spaces, missing padding and the URL-safe alphabet are accepted, as by MAX.

    Raises:
        ValueError: If it has other characters.
    """
    decoded: list[bytes] = []
    rest = b""
    for start in range(0, len(text), _PIECE):
        piece = bytes(text[start : start + _PIECE])
        rest += piece.translate(_TO_STANDARD, _IGNORED)
        whole = len(rest) - len(rest) % 4
        # Padding is at the end only.
        decoded.append(base64.b64decode(rest[:whole], validate=True))
        if rest.find(b"=", 0, whole) >= 0 and start + _PIECE < len(text):
            raise ValueError("padding in the middle of base64")
        rest = rest[whole:]
        time.sleep(0)  # Other threads get the lock.
    decoded.append(base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True))
    return b"".join(decoded)


def image_urls(body: Mapping[str, Any]) -> list[str]:
    """Returns the URLs of the images in the messages of a request."""
    messages = body.get("messages")
    urls = []
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            image = part.get("image_url") if isinstance(part, Mapping) else None
            url = image.get("url") if isinstance(image, Mapping) else None
            if isinstance(url, str):
                urls.append(url)
    return urls


def _has_only_slashes(body: bytes, start: int, end: int) -> bool:
    """Returns True if the only escapes in a part of a JSON text are of slashes."""
    escapes = body.count(b"\\", start, end)
    return escapes == 0 or escapes == body.count(b"\\/", start, end)
