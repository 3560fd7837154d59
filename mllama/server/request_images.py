"""Loads the images of a request while other requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mllama.errors import ImageError, NumberedImageError, shortened
from mllama.images.data_urls import (
    data_url_content,
    decode_base64,
    is_base64,
    percent_decoded,
)
from mllama.images.load import url_scheme
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.detached_strings import HEAD_BYTES, has_lines, without_line_ends
from mllama.server.image_fetcher import ImageFetcher, measured, over_budget
from mllama.utils.threads import in_thread

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles


class _Preparation(Protocol):
    def prepare_image(self, image: ImageFile | bytes) -> Future[ImageTiles]:
        """Starts to split an image into tiles."""


@dataclass(frozen=True)
class ImageReference:
    """An image that a request names.

    Attributes:
        path: Where the body names it, for messages.
        source: A URL, base64, or the name of a detached string.
    """

    path: str
    source: str


class RequestImageError(ImageError):
    """An image of a request can't be used.

    Attributes:
        path: Where the body names it.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def image_error_in_body(
    error: NumberedImageError, references: Sequence[ImageReference]
) -> RequestImageError:
    """Returns the error of an image, with the place at which the body names it.

    Args:
        error: The error, of an engine that decodes images elsewhere.
        references: The images in order.
    """
    return RequestImageError(str(error), references[error.number - 1].path)


def check_image_count(count: int, most: int | None, path: str = "messages") -> None:
    """Checks how many images a request has, before any is loaded.

    Args:
        count: The number of images.
        most: The most that are allowed; None is any number.
        path: The field of the body that has them.

    Raises:
        RequestRejected: If there are too many.
    """
    if most is not None and count > most:
        raise RequestRejected(
            f"The request has {count} images, but the server takes at most {most} "
            "(--max-images-per-request).",
            path,
            code="invalid_value",
        )


async def load_images(
    references: Sequence[ImageReference],
    strings: Mapping[str, memoryview],
    *,
    fetcher: ImageFetcher,
    engine: _Preparation,
    max_bytes: int | None = None,
) -> list[ImageTiles]:
    """Returns a request's images, ready for the model.

    Args:
        references: The images in order.
        strings: Strings that were detached from the body, by name.
        fetcher: Gets images from URLs.
        engine: Splits images into tiles.
        max_bytes: The limit for the files of all images together.

    Raises:
        RequestImageError: If one can't be used.  The message has its number, from 1.
    """
    used = 0

    def charge(size: int) -> None:
        nonlocal used
        used += size
        if max_bytes and used > max_bytes:
            raise over_budget(max_bytes)

    async def load(number: int, reference: ImageReference) -> ImageTiles:
        try:
            string = strings.get(reference.source)
            scheme = url_scheme(reference.source)
            if string is None and scheme not in (None, "data"):
                content = await fetcher.fetch(reference.source, charge)
            else:
                if string is None:
                    string = memoryview(reference.source.encode("utf-8", "replace"))
                content = await measured(
                    "inline", in_thread(partial(detached_content, string))
                )
                charge(len(content))
            return await asyncio.wrap_future(engine.prepare_image(content))
        except ImageError as error:
            raise RequestImageError(
                f"image {number}: {error}", reference.path
            ) from error

    tasks = [
        asyncio.ensure_future(load(number, reference))
        for number, reference in enumerate(references, 1)
    ]
    try:
        # Without a name for a task: an error holds this frame, and would hold itself
        # and all images until the next garbage collection.
        return [await tasks[number] for number in range(len(tasks))]
    finally:
        await _end(tasks)


async def _end(tasks: list[asyncio.Task[ImageTiles]]) -> None:
    """Ends tasks, and forgets them."""
    for task in tasks:
        task.cancel()
    # Their errors are those of images that nobody needs any more.
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


def detached_content(string: memoryview) -> bytes:
    """Returns the content of a ``data:`` URL, or of base64 alone.

    Args:
        string: The string as JSON has it, in which slashes may be escaped.

    Raises:
        ImageError: If it is damaged.
    """
    head = bytes(string[:HEAD_BYTES])
    if has_lines(head):
        string = memoryview(without_line_ends(string))
        head = bytes(string[:HEAD_BYTES])
    if head[:5].lower() != b"data:":
        try:
            return decode_base64(string)
        except ImageError:
            name = shortened(head.decode("utf-8", "replace"))
            raise ImageError(
                f"{name} is not a data:, http: or https: URL, nor base64"
            ) from None
    comma = head.find(b",")
    if comma >= 0:
        is_in_base64 = is_base64(head[:comma].decode("latin-1"))
        decode = decode_base64 if is_in_base64 else percent_decoded
        return decode(string[comma + 1 :])
    return data_url_content(bytes(string).decode("utf-8", "replace"))
