"""Reads image files whose end is missing, as browsers do.

What is there is shown, and the rest is white, as long as it is a small part of the
picture.  Pillow's own switch for this is global and hides how much is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mllama.images.formats import MAX_MISSING, CompletedFile, file_content
from mllama.images.jpeg_segments import has_all_bands, is_progressive
from mllama.images.rgb import strips

_END_OF_JPEG: Final = b"\xff\xd9"
_JPEG_BLOCK: Final = 16

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
        if isinstance(file, CompletedFile):
            digests = _row_digests(reopen(file.other))
            picture.load()
            return picture, _missing_rows(picture, digests)
        picture.load()
        return picture, None
    except OSError as error:
        content = file_content(picture)
        if content is None or "truncated" not in str(error):
            raise
        # Its traceback holds Pillow's decoder, which holds the picture.
        failure = OSError(str(error))
    # What was decoded isn't used, and others of its size follow.
    unused: Any = picture
    unused.im = None
    found = _load_beginning(content, picture.format, reopen)
    if found is None:
        raise failure
    return found


def _load_beginning(
    content: bytes, kind: str | None, reopen: Reopen
) -> tuple[Image.Image, Image.Image | None] | None:
    """Returns the picture in a file's beginning, unless it is too little.

    At no time are there two decoded pictures.
    """
    is_jpeg = kind in ("JPEG", "MPO")
    if is_jpeg and is_progressive(content):
        if not has_all_bands(content):
            return None
        return _loaded(content + _END_OF_JPEG, reopen), None
    # What is missing keeps what the picture was filled with before.
    zeros = _zeros(_loaded(content, reopen, fill=0))
    picture = _loaded(content, reopen, fill=255)
    missing = _still_filled(picture, zeros)
    if np.count_nonzero(missing) > MAX_MISSING * missing.size:
        return None
    if is_jpeg:
        # With its end, libjpeg decodes the blocks that are there in part.
        first = _first_row(missing)
        missing[first : first + _JPEG_BLOCK] = 0
        del picture
        picture = _loaded(content + _END_OF_JPEG, reopen)
    mask = Image.fromarray(missing)
    if picture.mode != "RGB":
        return picture, mask
    picture.paste("white", (0, 0, *picture.size), mask)
    return picture, None


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
        # Pillow goes on with what it has decoded, and copies it if it is read-only.
        picture.tile = []
        picture.readonly = 0
    finally:
        # A picture that held itself would stay until a collection.
        picture.__dict__.pop("load_prepare", None)
    return picture


def _zeros(picture: Image.Image) -> list[npt.NDArray[np.uint8]]:
    """Returns for each strip which samples are zero, in one bit each."""
    return [np.packbits(np.asarray(strip) == 0) for strip, _ in strips(picture)]


def _still_filled(
    picture: Image.Image, zeros: list[npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    """Returns 255 for each pixel that isn't 0, but was in the same file filled with 0.

    Returns:
        ``[height, width]``.  Memory is taken only where something is missing.
    """
    width, height = picture.size
    missing = np.zeros((height, width), np.uint8)
    for (strip, top), bits in zip(strips(picture), zeros, strict=True):
        values = np.asarray(strip)
        was_zero = np.unpackbits(bits, count=values.size).view(bool)
        differs = (values != 0) & was_zero.reshape(values.shape)
        if differs.ndim == 3:
            differs = np.logical_or.reduce(
                [differs[..., each] for each in range(differs.shape[2])]
            )
        if differs.any():
            missing[top : top + len(differs)] = differs * np.uint8(255)
    return missing


def _row_digests(picture: Image.Image) -> list[bytes]:
    """Decodes a picture and returns a digest of each of its rows."""
    picture.load()
    return [
        hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        for strip, _ in strips(picture)
        for row in np.asarray(strip)
    ]


def _missing_rows(picture: Image.Image, other: list[bytes]) -> Image.Image | None:
    """Returns a mask of the rows that differ from those of another filling.

    Rows come one after another, and depend on those before.

    Raises:
        OSError: If more than ``MAX_MISSING`` of the picture is missing.
    """
    width, height = picture.size
    pairs = enumerate(zip(_row_digests(picture), other, strict=True))
    first = next((row for row, (this, that) in pairs if this != that), height)
    if first == height:
        return None
    if height - first > MAX_MISSING * height:
        raise OSError("image file is incomplete")
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, first, width, height))
    return mask


def _first_row(missing: npt.NDArray[np.uint8]) -> int:
    rows = np.flatnonzero(missing.any(axis=1))
    return int(rows[0]) if rows.size else len(missing)
