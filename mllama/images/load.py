"""Loading of images from paths, URLs, bytes and pictures, as RGB that people see."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mllama.errors import ImageDecodeError, ImageError, shortened
from mllama.images import truncated
from mllama.images.data_urls import data_url_content
from mllama.images.decoded_size import decoded_size
from mllama.images.fetch import fetch
from mllama.images.formats import MAX_PIXELS, MAX_SIDE, open_picture
from mllama.images.rgb import sample_bits, to_rgb

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
        bits: Bits of a sample in the file.
        missing: A mask of the pixels that the file lacks, if it is known already.
    """

    name: str
    picture: Image.Image
    bits: int = 8
    missing: Image.Image | None = None

    @property
    def decoded_bytes(self) -> int:
        """Returns the memory that it takes to decode the pixels and make them RGB."""
        return decoded_size(self.picture)

    def decode(self) -> Image.Image:
        """Returns the picture upright, opaque and in mode RGB, not resized.

        Raises:
            ImageError: If the pixels can't be decoded, or are no brightness.
        """
        picture, missing = _decode(self.picture, self.name)
        try:
            return to_rgb(picture, self.bits, missing or self.missing)
        except ImageError as error:
            raise ImageError(f"{self.name} can't be shown: {error}") from error
        except Exception as error:
            raise _undecodable(self.name, error) from error


def load_image(source: ImageSource) -> Image.Image:
    """Reads an image and converts it to RGB, as people see it.

    It is turned upright by its EXIF orientation, and put on white where it is
    transparent.  16 bits become 8.  Of an animation or several pages the first is used.
    A small part that is missing at the end is white.

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


def open_image(source: ImageSource) -> ImageFile:
    """Reads an image's header.

    Args:
        source: A picture, the content or the path of an image file, or a ``data:``,
            ``http:`` or ``https:`` URL.  A string can make this function read any file
            or address that the process can reach, so servers must pass pictures or
            bytes only.

    Raises:
        ImageError: If the image doesn't exist, can't be read, or has more than
            ``MAX_PIXELS`` pixels.
    """
    if isinstance(source, Image.Image):
        file = _checked(source, "the picture")
        # Pillow decodes a picture when it is used, and two threads may get the same.
        with _given_pictures:
            picture, missing = _decode(source, file.name)
        return ImageFile(file.name, picture, file.bits, missing)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open(bytes(source), "the file")
    if isinstance(source, str):
        scheme = url_scheme(source)
        if scheme:
            return _open_url(source, scheme)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(Path(source))
    raise ImageError(
        "an image must be a PIL image, a path, a URL, or the bytes of an image file, "
        f"not {type(source).__name__}"
    )


def is_image_source(value: Any) -> bool:
    """Returns True for one image: a picture, content, path or URL."""
    return isinstance(
        value, (Image.Image, bytes, bytearray, memoryview, str, os.PathLike)
    )


def url_scheme(text: str) -> str | None:
    """Returns the scheme of a URL in lower case, or None for a path."""
    scheme = _SCHEME.match(text)
    return scheme[1].lower() if scheme else None


def _open_url(url: str, scheme: str) -> ImageFile:
    if scheme == "data":
        return _open(data_url_content(url), "the file in the data: URL")
    if scheme in ("http", "https"):
        return _open(fetch(url), shortened(url))
    raise ImageError(
        f"URLs of scheme {scheme!r} are not supported; give a path, or a data:, "
        "http: or https: URL"
    )


def _open_path(path: Path) -> ImageFile:
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
    return _open(content, name)


def _open(content: bytes, name: str) -> ImageFile:
    return _checked(open_picture(content, name), name)


def _checked(picture: Image.Image, name: str) -> ImageFile:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS:,} are "
            "accepted, so make it smaller"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name} has {width} x {height} pixels; at most {MAX_SIDE:,} a side are "
            "accepted, so make it smaller"
        )
    if width * height == 0:
        raise ImageError(f"{name} has {width} x {height} pixels, so it is empty")
    return ImageFile(name, picture, sample_bits(picture))


def _decode(picture: Image.Image, name: str) -> tuple[Any, Image.Image | None]:
    """Returns a decoded picture, and a mask of the pixels that its file lacks."""
    try:
        return truncated.load(picture, lambda content: open_picture(content, name))
    # Pillow raises errors of any kind here, too: a truncated file fails only now.
    except Exception as error:
        raise _undecodable(name, error) from error


def _undecodable(name: str, error: Exception) -> ImageDecodeError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageDecodeError(f"{name} can't be decoded: {reason}")
