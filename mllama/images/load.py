"""Loading of images from paths, URLs, bytes and pictures, and conversion to RGB.

The conversion is that of the reference, transformers' processor.  Like the reference it
ignores the EXIF orientation: the model sees a photograph stored sideways as it is.
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
"""The limit for width times height, since a small file can unpack to any size."""

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
"""The formats that Pillow may try; some others are unsafe: EPS runs Ghostscript."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
"""A URL's scheme, which has at least two letters, unlike a drive letter."""


def load_image(
    source: Image.Image | bytes | str | os.PathLike[str],
) -> Image.Image:
    """Reads an image and converts it to RGB.

    Only the first frame of an animation is used.  Transparent images get a white
    background, as in transformers' processor.  16-bit gray is scaled to 8 bits.

    Args:
        source: A picture, the content or the path of an image file, or a ``data:``,
            ``http:`` or ``https:`` URL.  A string can make this function read any file
            or address that the process can reach, so servers must pass pictures or
            bytes only.

    Returns:
        A picture of mode RGB, not resized.

    Raises:
        ImageError: If the image doesn't exist, can't be read, or has more than
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
        f"URLs of scheme {scheme!r} are not supported; give a path, or a data:, "
        "http: or https: URL"
    )


def _from_path(path: Path) -> Image.Image:
    name = _shortened(str(path))
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"there is no image file {name}") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a directory; give an image file") from None
    # A path with a zero byte, or one that is too long, raises ValueError.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name} can't be read: {reason}") from error
    return _decode(content, name)


def _data_url_content(url: str) -> bytes:
    """Decodes a ``data:`` URL, in base64 or percent-encoded (RFC 2397)."""
    header, comma, data = url.partition(",")
    if not comma:
        raise ImageError("the data: URL has no comma before its content")
    content = unquote_to_bytes(data)
    if not header.lower().rstrip().endswith(";base64"):
        return content
    # Clients wrap long lines or omit the padding; neither makes the content ambiguous.
    packed = b"".join(content.split())
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError(f"the data: URL's base64 is damaged: {error}") from error


@cache
def _available_formats() -> tuple[str, ...]:
    """Returns those of ``_FORMATS`` that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode(content: bytes, name: str) -> Image.Image:
    if not content:
        raise ImageError(f"{name} is empty: it has zero bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=_available_formats())
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels") from None
    # Pillow's decoders raise errors of any kind if a file is damaged.
    except Exception as error:
        raise ImageError(
            f"{name} is not an image, or of none of the formats "
            f"{', '.join(_available_formats())}"
        ) from error
    with image:
        return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    # transformers imports the hub's client, which reads its environment then: this must
    # not happen before telemetry is disabled.
    from transformers.models.mllama.image_processing_pil_mllama import convert_to_rgb

    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS:,} are "
            "accepted, so make it smaller"
        )
    if width * height == 0:
        raise ImageError(f"{name} has {width} x {height} pixels, so it is empty")
    try:
        image.load()
        converted = convert_to_rgb(_with_eight_bits(image))
        # A picture of mode RGB is returned unchanged, still bound to its file.
        return converted.copy() if converted is image else converted
    # Pillow raises errors of any kind here, too: a truncated file fails only now.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} can't be decoded: {reason}") from error


def _with_eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit gray to 8 bits, where Pillow's conversion would clip it at 255."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    # Pillow uses mode "I" for 16-bit PGM files, but also for some 8-bit pictures.
    values = np.asarray(image).astype(np.int64)
    if image.mode == "I" and values.max() <= 255:
        return image
    gray = (np.clip(values, 0, 65535) + 128) // 257
    return Image.fromarray(gray.astype(np.uint8))


def _shortened(text: str, limit: int = 120) -> str:
    """Returns a printable name for a one-line message."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= limit else f"{printable[:limit]}..."
