"""Reads image files whose end is missing, as browsers do.

What is there is shown, and the rest is white, as long as it is a small part of the
picture.  Pillow's own switch for this is global and hides how much is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from PIL import Image

from mllama.images.formats import MAX_MISSING, CompletedFile, file_content

_END_OF_JPEG: Final = b"\xff\xd9"
_START_OF_SCAN: Final = 0xDA
_PROGRESSIVE: Final = (0xC2, 0xC6, 0xCA, 0xCE)
_WITHOUT_LENGTH: Final = (0x01, *range(0xD0, 0xD9))
_LAST_COEFFICIENT: Final = 63
_JPEG_BLOCK: Final = 16

_STRIP_PIXELS: Final = 1 << 20
"""Pixels that are compared at once."""

Reopen = Callable[[bytes], Image.Image]


def load(
    picture: Image.Image, reopen: Reopen
) -> tuple[Image.Image, Image.Image | None]:
    """Decodes a picture.

    Args:
        picture: A picture that may not be decoded yet.
        reopen: Reads the header of a file's content again.

    Returns:
        The decoded picture, and a mask of the pixels that are missing, if any are.

    Raises:
        OSError: If more than ``MAX_MISSING`` of the picture is missing.
        Exception: Of any kind, if the file is damaged.
    """
    file = getattr(picture, "fp", None)
    try:
        picture.load()
        if isinstance(file, CompletedFile):
            return picture, _missing_pixels(picture, reopen(file.other))
    except OSError as error:
        content = file_content(picture)
        if content is None or "truncated" not in str(error):
            raise
        # What was decoded isn't used, and others of its size follow.
        unused: Any = picture
        unused.im = None
        found = _load_beginning(content, picture.format, reopen)
        if found is None:
            raise
        return found
    return picture, None


def _load_beginning(
    content: bytes, kind: str | None, reopen: Reopen
) -> tuple[Image.Image, Image.Image | None] | None:
    """Returns the picture in a file's beginning, unless it is too little."""
    is_jpeg = kind in ("JPEG", "MPO")
    completed = content + _END_OF_JPEG
    if is_jpeg and _is_progressive(content):
        return (_loaded(completed, reopen), None) if _has_all_bands(content) else None
    # What is missing keeps what the picture was filled with before.
    black, white = (_loaded(content, reopen, fill) for fill in (0, 255))
    missing = _difference(black, white)
    del white
    if missing.mean() > MAX_MISSING:
        return None
    if is_jpeg:
        # With its end, libjpeg decodes the blocks that are there in part.
        missing[: _first_row(missing) + _JPEG_BLOCK] = False
        black = _loaded(completed, reopen)
    return black, _mask(missing)


def _loaded(content: bytes, reopen: Reopen, fill: int | None = None) -> Image.Image:
    """Returns a picture as far as it can be decoded.

    Args:
        content: The image file.
        reopen: Reads its header.
        fill: What pixels have before they are decoded.
    """
    picture: Any = reopen(content)
    prepare = picture.load_prepare

    def prepare_filled() -> None:
        prepare()
        ink = fill if picture.im.bands == 1 else (fill,) * picture.im.bands
        picture.im.paste(ink, (0, 0, *picture.size))

    if fill is not None:
        picture.load_prepare = prepare_filled
    try:
        picture.load()
    except OSError as error:
        if "truncated" not in str(error):
            raise
        # Pillow goes on with what it has decoded.
        picture.tile = []
    finally:
        # A picture that held itself would stay until a collection.
        picture.__dict__.pop("load_prepare", None)
    return picture


def _difference(left: Image.Image, right: Image.Image) -> Any:
    """Returns where two pictures differ: bool ``[height, width]``.

    A strip at a time: an array of a whole picture costs several times its memory.
    """
    width, height = left.size
    differs = np.empty((height, width), bool)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = (0, top, width, min(top + rows, height))
        found = np.asarray(left.crop(strip)) != np.asarray(right.crop(strip))
        if found.ndim == 3:
            found = np.logical_or.reduce(
                [found[..., each] for each in range(found.shape[2])]
            )
        differs[top : top + rows] = found
    return differs


def _missing_pixels(picture: Image.Image, other: Image.Image) -> Image.Image:
    """Returns a mask of the pixels in which a completed file's fillings differ."""
    other.load()
    missing = _difference(picture, other)
    # Rows come one after another, and depend on those before.
    missing[_first_row(missing) :] = True
    if missing.mean() > MAX_MISSING:
        raise OSError("image file is incomplete")
    return _mask(missing)


def _mask(missing: Any) -> Image.Image:
    """Returns a picture that is 255 where something is missing."""
    mask = missing.view(np.uint8)
    mask *= 255
    return Image.fromarray(mask)


def _first_row(missing: Any) -> int:
    rows = missing.any(axis=1)
    return int(rows.argmax()) if rows.any() else len(rows)


def _is_progressive(content: bytes) -> bool:
    return any(marker in _PROGRESSIVE for marker, _ in _segments(content))


def _has_all_bands(content: bytes) -> bool:
    """Returns True if a progressive file has brightness in all spatial frequencies.

    The scans that follow make it more precise.
    """
    for marker, segment in _segments(content):
        if marker == _START_OF_SCAN and len(segment) >= 6:
            components = segment[0]
            if components == 1 and segment[4] == _LAST_COEFFICIENT:
                return True
    return False


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the markers of a JPEG file with their segments, without their lengths."""
    at = 2
    while (at := content.find(b"\xff", at)) >= 0 and at + 4 <= len(content):
        marker = content[at + 1]
        if marker in (0x00, 0xFF) or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        (size,) = struct.unpack_from(">H", content, at + 2)
        yield marker, content[at + 4 : at + 2 + size]
        at += 2 + size
