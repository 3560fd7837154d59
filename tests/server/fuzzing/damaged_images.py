"""Files of pictures in all formats, with a few bytes changed and the end cut off."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from PIL import Image

from mllama.images.formats import FORMATS

_VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PNG", "RGBA", {}),
    ("PNG", "P", {"transparency": 0}),
    ("PNG", "I;16", {}),
    ("PNG", "1", {}),
    ("JPEG", "RGB", {"progressive": True}),
    (
        "JPEG",
        "L",
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"},
    ),
    ("JPEG", "CMYK", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "F", {}),
    ("GIF", "P", {}),
    ("BMP", "P", {}),
    ("TGA", "RGB", {"compression": "tga_rle"}),
)


@functools.cache
def files() -> tuple[bytes, ...]:
    """Returns pictures of every format that can be written here, and of many modes."""
    return tuple(
        encoded
        for kind, mode, options in (
            *((kind, "RGB", {}) for kind in FORMATS),
            *_VARIANTS,
        )
        if (encoded := _encoded(kind, mode, options))
    )


def _encoded(kind: str, mode: str, options: dict[str, Any]) -> bytes:
    if kind == "HEIF":
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return b""
        register_heif_opener()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (30, 40, 3), np.uint8)
    # Large areas of one color, as in most pictures, and noise.
    pixels[:15] = 200
    picture = Image.fromarray(pixels)
    if mode == "I;16":
        picture = picture.convert("I").convert("I;16")
    elif mode != "RGB":
        picture = picture.convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@st.composite
def damaged(draw: DrawFn) -> bytes:
    """A file with changed, inserted and removed bytes, or a cut end."""
    data = bytearray(draw(st.sampled_from(files())))
    kinds: tuple[Callable[[], None], ...] = (
        lambda: _flip(draw, data),
        lambda: _flip(draw, data),
        lambda: _overwrite(draw, data),
        lambda: _cut(draw, data),
        lambda: _repeat(draw, data),
        lambda: _splice(draw, data),
    )
    for _ in range(draw(st.integers(1, 4))):
        kinds[draw(st.integers(0, len(kinds) - 1))]()
    return bytes(data)


def _place(draw: DrawFn, data: bytearray) -> int:
    # Headers, where most is decided, are short.
    most = draw(st.sampled_from((40, 200, len(data))))
    return draw(st.integers(0, max(0, min(most, len(data)) - 1)))


def _flip(draw: DrawFn, data: bytearray) -> None:
    if data:
        data[_place(draw, data)] ^= 1 << draw(st.integers(0, 7))


def _overwrite(draw: DrawFn, data: bytearray) -> None:
    place = _place(draw, data)
    value = draw(
        st.sampled_from((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80"))
    )
    data[place : place + len(value)] = value


def _cut(draw: DrawFn, data: bytearray) -> None:
    del data[_place(draw, data) + 1 :]


def _repeat(draw: DrawFn, data: bytearray) -> None:
    place = _place(draw, data)
    data[place:place] = data[place : place + draw(st.integers(1, 64))]


def _splice(draw: DrawFn, data: bytearray) -> None:
    other = draw(st.sampled_from(files()))
    place = _place(draw, data)
    data[place:] = other[place:]
