"""From whatever names an image to an RGB picture, as the reference converts it.

The EXIF orientation is left alone, because transformers' processor leaves it alone:
a photograph that was stored lying on its side is shown to the model like that.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from mllama.errors import ImageError
from mllama.images.fetch import fetch

MAX_PIXELS: Final = 64_000_000
"""Largest width times height: small files can unpack to any size."""

_FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "GIF",
    "WEBP",
    "AVIF",
    "BMP",
    "TIFF",
    "PPM",
    "JPEG2000",
)
"""What Pillow may try.  Others are left out: EPS, for one, runs Ghostscript."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
"""A URL's scheme; two letters at least, so that a drive letter is none."""


def load_image(
    source: Image.Image | bytes | str | os.PathLike[str],
) -> Image.Image:
    """Reads an image and converts it to RGB.

    Of an animation it takes the first frame; transparency is put on white, as
    transformers' processor does; 16-bit gray is scaled to 8 bits.

    Args:
        source: A picture, the content of an image file, the path of one, or a
            ``data:``, ``http:`` or ``https:`` URL.  A string may make this function
            read any file or address that the process can reach, so that servers
            must pass pictures or bytes only.

    Returns:
        A picture of mode RGB, not resized.

    Raises:
        ImageError: If there is no such image, it can't be read, or it has more than
            ``MAX_PIXELS`` pixels.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the image")
    if isinstance(source, bytes):
        return _decode(source, "the image")
    if isinstance(source, str):
        scheme = _SCHEME.match(source)
        if scheme:
            return _from_url(source, scheme[1].lower())
    return _from_path(Path(source))


def _from_url(url: str, scheme: str) -> Image.Image:
    if scheme == "data":
        return _decode(_data_url_content(url), "the data: URL's image")
    if scheme in ("http", "https"):
        return _decode(fetch(url), _shortened(url))
    raise ImageError(
        f"URLs of scheme {scheme!r} can't be read; give a path, or a data:, http: or "
        "https: URL"
    )


def _from_path(path: Path) -> Image.Image:
    name = _shortened(str(path))
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"there is no image file {name}") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a directory; give an image file") from None
    # A path with a zero byte or beyond the system's length is refused as a value.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name} can't be read: {reason}") from error
    return _decode(content, name)


def _data_url_content(url: str) -> bytes:
    """The bytes of a ``data:`` URL, in base64 or percent-encoded (RFC 2397)."""
    header, comma, data = url.partition(",")
    if not comma:
        raise ImageError("the data: URL has no comma in front of its content")
    content = unquote_to_bytes(data)
    if not header.lower().rstrip().endswith(";base64"):
        return content
    # Clients wrap long lines and leave out the padding; neither is ambiguous.
    packed = b"".join(content.split())
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError(f"the data: URL's base64 is damaged: {error}") from error


@cache
def _available_formats() -> tuple[str, ...]:
    """Those of ``_FORMATS`` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode(content: bytes, name: str) -> Image.Image:
    if not content:
        raise ImageError(f"{name} is empty: it has zero bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=_available_formats())
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels") from None
    # Pillow's decoders let errors of every kind through when a file is damaged.
    except Exception as error:
        raise ImageError(
            f"{name} is not an image, or of none of the formats "
            f"{', '.join(_available_formats())}"
        ) from error
    with image:
        return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    # transformers loads the hub's client, which reads its environment at once: only
    # now has the telemetry been switched off.
    from transformers.models.mllama.image_processing_pil_mllama import convert_to_rgb

    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS:,} are "
            "accepted, so make it smaller"
        )
    if width * height == 0:
        raise ImageError(f"{name} has {width} x {height} pixels, that is none")
    try:
        image.load()
        converted = convert_to_rgb(_with_eight_bits(image))
        # Pictures of mode RGB come back as they are, tied to the file.
        return converted.copy() if converted is image else converted
    # As above; a truncated file is noticed only when its pixels are read.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} can't be decoded: {reason}") from error


def _with_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit gray scaled to 8 bits; Pillow's conversion would clip it at 255."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    # "I" comes from 16-bit PGM files as well as from 8-bit pictures.
    values = np.asarray(image).astype(np.int64)
    if image.mode == "I" and values.max() <= 255:
        return image
    gray = (np.clip(values, 0, 65535) + 128) // 257
    return Image.fromarray(gray.astype(np.uint8))


def _shortened(text: str, limit: int = 120) -> str:
    """A name for a one-line message."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= limit else f"{printable[:limit]}..."
