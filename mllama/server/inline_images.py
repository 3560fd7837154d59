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
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from max.pipelines.context.exceptions import InputError

from mllama.errors import ImageError
from mllama.images.data_urls import decode_base64, is_base64
from mllama.images.load import open_image
from mllama.max_compat.server import ImageFact
from mllama.server.image_fetcher import ImageFetcher, measured, over_budget

_START: Final = b'"data:'
_LONG: Final = 64 * 1024
"""URLs that are shorter, in bytes, are parsed with the rest of the body."""

_HEADER: Final = 256
"""The longest part before a data: URL's comma, in bytes."""

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
                and is_base64(body[start:comma].decode("latin-1"))
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

    def resolve_with(self, fetcher: ImageFetcher) -> Resolve:
        """Returns the replacement of MAX's function that resolves a media reference.

        It returns the error of an image that can't be had, because MAX doesn't say
        which image it resolves; :func:`headers_only` raises it.

        Args:
            fetcher: Gets images from other URLs.
        """

        async def resolve(
            image_ref: Any,
            settings: Any,
            budget: Any = None,
            media_kind: str | None = None,
        ) -> bytes | ImageError:
            def charge(size: int) -> None:
                if budget.exceeds(size):
                    raise over_budget(budget.limit)
                budget.charge(size, media_kind)

            url = str(image_ref)
            payload = self._payloads.pop(url, None)
            try:
                if payload is None:
                    return await fetcher.fetch(url, charge)
                content = await measured(
                    "inline", asyncio.to_thread(decode_base64, payload)
                )
                charge(len(content))
                return content
            except ImageError as error:
                return error

        return resolve


def headers_only(
    images: list[bytes | ImageError],
    limit: int | None,
    probe: Any,
    messages: Any,
    facts: list[ImageFact],
) -> tuple[list[None], None]:
    """Replaces MAX's function that decodes a request's images.

    It reads and checks their headers only; the tokenizer has them decoded.

    Args:
        images: The contents, or the errors of :meth:`InlineImages.resolve_with`.
        limit: MAX's limit for the decoded images of a request.  Here those of all
            requests share one, and wait for each other.
        probe: Says which images the tokenizer has decoded already.
        messages: The request's messages.
        facts: Gets each image's format and size, for metrics.

    Raises:
        InputError: If an image can't be used.  The message has the image's number.
    """
    for number, image in enumerate(images, 1):
        try:
            if isinstance(image, ImageError):
                raise image
            picture = open_image(image).picture
        except ImageError as error:
            raise InputError(f"image {number}: {error}") from error
        width, height = picture.size
        facts.append(ImageFact(str(picture.format).lower(), width * height))
    # No mask: it would be counted as hits of a cache.
    return [None] * len(images), None


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
