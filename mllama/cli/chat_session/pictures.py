"""Pictures of a conversation: read once, and kept as files that every server reads."""

from __future__ import annotations

import base64
import io
import tempfile
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from mllama.cli.terminal_image import show_picture
from mllama.errors import shortened
from mllama.images.formats import file_content
from mllama.images.load import ImageFile, open_image

_MEDIA_TYPES: Final = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
"""Formats that every server of OpenAI's API reads; others are sent as PNG."""

_SHOWN_PIXELS: Final = 640
"""Longest side of a picture that is shown in a terminal."""


@dataclass(frozen=True)
class Picture:
    """A picture that belongs to a question.

    Attributes:
        name: What messages call it.
        url: The picture's file as a ``data:`` URL.
        preview: A small PNG file of it, for terminals.
    """

    name: str
    url: str
    preview: bytes

    @property
    def part(self) -> dict[str, Any]:
        """Returns the part of a message that shows the picture."""
        return {"type": "image_url", "image_url": {"url": self.url}}

    def show(self, stream: TextIO) -> None:
        """Shows the picture if the stream is a terminal that can."""
        if stream.isatty():
            with tempfile.NamedTemporaryFile(suffix=".png") as file:
                file.write(self.preview)
                file.flush()
                show_picture(Path(file.name), stream)


def read_picture(source: str | Path) -> Picture:
    """Reads a picture.

    Args:
        source: A path, or a ``data:``, ``http:`` or ``https:`` URL.

    Raises:
        ImageError: If there is none, or it can't be decoded.
    """
    file = open_image(source)
    url, pixels = _data_url(file)
    pixels.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS))
    return Picture(shortened(str(source)), url, _png(pixels))


def prepare_data_url(file: ImageFile) -> Future[str]:
    """Returns a picture's ``data:`` URL, for ``read_conversation``."""
    future: Future[str] = Future()
    try:
        future.set_result(_data_url(file)[0])
    except Exception as error:
        future.set_exception(error)
    return future


def _data_url(file: ImageFile) -> tuple[str, Any]:
    """Returns a picture's file as a ``data:`` URL, and its pixels."""
    content = file_content(file.picture)
    media_type = _MEDIA_TYPES.get(file.picture.format or "")
    # All pixels are decoded now: an error later would be one of a whole conversation.
    pixels = file.decode()
    if content is None or media_type is None:
        content, media_type = _png(pixels), "image/png"
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}", pixels


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG")
    return buffer.getvalue()
