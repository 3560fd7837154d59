"""Loading of images from paths, URLs, bytes and pictures, and conversion to RGB.

The conversion is that of the reference, transformers' processor.  Like the reference it
ignores the EXIF orientation: the model sees a photograph stored sideways as it is.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from mllama.errors import ImageDecodeError, ImageError, shortened
from mllama.images.data_urls import data_url_content
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

_STRIP_PIXELS: Final = 1 << 20
"""Pixels of a strip that is converted at once, which takes a few milliseconds."""

ImageSource = Image.Image | bytes | str | os.PathLike[str]
"""An image's picture, content, path or URL."""

_given_pictures = threading.Lock()

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
"""A URL's scheme, which has at least two letters, unlike a drive letter."""


@dataclass(frozen=True)
class ImageFile:
    """An image whose header has been read, and whose pixels may not have been.

    Attributes:
        name: What messages call it.
        picture: Pillow's picture.
    """

    name: str
    picture: Image.Image

    @property
    def decoded_bytes(self) -> int:
        """Returns the memory that the pixels take while they are made RGB."""
        width, height = self.picture.size
        # Pillow has four bytes a pixel in most modes; others than RGB are converted.
        return width * height * (4 if self.picture.mode == "RGB" else 8)

    def decode(self) -> Image.Image:
        """Returns the picture in mode RGB, not resized.

        Raises:
            ImageError: If the pixels can't be decoded.
        """
        return _to_rgb(self.picture, self.name)


def load_image(source: ImageSource) -> Image.Image:
    """Reads an image and converts it to RGB.

    Only the first frame of an animation is used.  Transparent images get a white
    background, as in transformers' processor.  16-bit gray is scaled to 8 bits.

    Args:
        source: As of :func:`open_image`.

    Returns:
        A picture of mode RGB, not resized.

    Raises:
        ImageError: If the image doesn't exist, can't be read, or has more than
            ``MAX_PIXELS`` pixels.
    """
    picture = open_image(source).decode()
    # A caller may change or close the picture that it has given.
    return picture.copy() if picture is source else picture


def open_image(source: ImageSource, formats: Sequence[str] = ()) -> ImageFile:
    """Reads an image's header.

    Args:
        source: A picture, the content or the path of an image file, or a ``data:``,
            ``http:`` or ``https:`` URL.  A string can make this function read any file
            or address that the process can reach, so servers must pass pictures or
            bytes only.
        formats: Pillow's names of the formats to try; by default those of
            ``_FORMATS``.

    Raises:
        ImageError: If the image doesn't exist, can't be read, or has more than
            ``MAX_PIXELS`` pixels.
    """
    if isinstance(source, Image.Image):
        file = _checked(source, "the image")
        # Pillow decodes a picture when it is used, and two threads may get the same.
        with _given_pictures:
            _decode(source, file.name)
        return file
    if isinstance(source, bytes):
        return _open(source, "the image", formats)
    if isinstance(source, str):
        scheme = _SCHEME.match(source)
        if scheme:
            return _open_url(source, scheme[1].lower(), formats)
    return _open_path(Path(source), formats)


def _open_url(url: str, scheme: str, formats: Sequence[str]) -> ImageFile:
    if scheme == "data":
        return _open(data_url_content(url), "the data: URL's image", formats)
    if scheme in ("http", "https"):
        return _open(fetch(url), shortened(url), formats)
    raise ImageError(
        f"URLs of scheme {scheme!r} are not supported; give a path, or a data:, "
        "http: or https: URL"
    )


def _open_path(path: Path, formats: Sequence[str]) -> ImageFile:
    name = shortened(str(path))
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
    return _open(content, name, formats)


@cache
def _available_formats() -> tuple[str, ...]:
    """Returns those of ``_FORMATS`` that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(content: bytes, name: str, formats: Sequence[str]) -> ImageFile:
    if not content:
        raise ImageError(f"{name} is empty: it has zero bytes")
    tried = tuple(formats) or _available_formats()
    try:
        picture = Image.open(io.BytesIO(content), formats=tried)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels") from None
    # Pillow's decoders raise errors of any kind if a file is damaged.
    except Exception as error:
        raise ImageError(
            f"{name} is not an image, or of none of the formats {', '.join(tried)}"
        ) from error
    return _checked(picture, name)


def _checked(picture: Image.Image, name: str) -> ImageFile:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS:,} are "
            "accepted, so make it smaller"
        )
    if width * height == 0:
        raise ImageError(f"{name} has {width} x {height} pixels, so it is empty")
    return ImageFile(name, picture)


def _decode(image: Image.Image, name: str) -> None:
    try:
        image.load()
    # Pillow raises errors of any kind here, too: a truncated file fails only now.
    except Exception as error:
        raise _undecodable(name, error) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    _decode(image, name)
    try:
        return _flattened(_with_eight_bits(image))
    except Exception as error:
        raise _undecodable(name, error) from error


def _undecodable(name: str, error: Exception) -> ImageDecodeError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageDecodeError(f"{name} can't be decoded: {reason}")


def _flattened(image: Image.Image) -> Image.Image:
    """Returns what transformers converts a picture to; one of mode RGB as it is.

    Strip by strip, because Pillow composites a whole picture without releasing Python's
    lock, and to hold fewer pictures of its size at once.
    """
    # transformers imports the hub's client, which reads its environment then: this must
    # not happen before telemetry is disabled.
    from transformers.models.mllama.image_processing_pil_mllama import convert_to_rgb

    if image.mode == "RGB":
        return image
    width, height = image.size
    flattened = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        flattened.paste(convert_to_rgb(strip), (0, top))
    return flattened


def _with_eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit gray to 8 bits, where Pillow's conversion would clip it at 255."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    # Pillow uses mode "I" for 16-bit PGM files, but also for some 8-bit pictures.
    values = np.asarray(image).astype(np.int32)
    if image.mode == "I" and values.max() <= 255:
        return image
    gray = (np.clip(values, 0, 65535) + 128) // 257
    return Image.fromarray(gray.astype(np.uint8))
