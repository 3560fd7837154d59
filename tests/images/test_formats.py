"""One list of formats; a format that needs a package names it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mllama
from mllama.errors import ImageError
from mllama.images import formats
from mllama.images.formats import FORMATS, available_formats
from mllama.images.load import load_image

API = Path(mllama.__file__).parents[1] / "docs" / "api.md"


def encoded(kind: str) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    file = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("comment", [b"<!---->", b"<!-- -->\n", b"<!--"])
def test_a_file_of_comments_is_refused_at_once(comment: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(ImageError, match="is not an image"):
        load_image(comment * 1000)
    assert time.monotonic() - started < 1


def test_a_png_of_empty_texts_takes_no_more_memory_than_its_file() -> None:
    chunk = struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))
    content = encoded("PNG")
    # Behind the signature and the header.
    padded = content[:33] + chunk * 200_000 + content[33:]
    tracemalloc.start()
    try:
        assert formats._without_texts(padded) == content
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * len(padded)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    pixel = load_image(encoded(kind)).getpixel((16, 12))
    assert isinstance(pixel, tuple)
    assert np.abs(np.subtract(pixel, (255, 0, 0))).max() < 10


def test_the_documented_formats_are_those_that_are_read() -> None:
    text = " ".join(API.read_text(encoding="utf-8").split())
    found = re.search(r"Images may be (.+?)\.", text)
    assert found
    names = re.split(r", | and ", re.sub(r"\s*\(.*?\)", "", found[1]))
    documented = {name.upper().replace(" ", "") for name in names}
    assert documented == {*FORMATS, "HEIC"}


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without the packages that read HEIF."""
    available_formats()
    monkeypatch.setattr(formats, "_HEIF_PLUGINS", ("no_such_package",))
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    available_formats.cache_clear()
    yield
    monkeypatch.undo()
    available_formats.cache_clear()


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_without_its_package_heif_names_the_extra(
    brand: bytes, without_heif: None
) -> None:
    content = b"\0\0\0\x18ftyp" + brand + bytes(4) + b"mif1heic" + bytes(40)
    with pytest.raises(ImageError, match=r"HEIC or HEIF .*mllama\[heif\]"):
        load_image(content)
    assert load_image(encoded("AVIF")).size == (32, 24)


def test_a_damaged_heif_file_does_not_name_the_extra() -> None:
    with pytest.raises(ImageError, match="a damaged HEIF file"):
        load_image(b"\0\0\0\x18ftypheic" + bytes(60))


def test_without_its_codec_avif_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded("AVIF")
    monkeypatch.delitem(Image.OPEN, "AVIF")
    monkeypatch.setattr(formats, "_supports_avif", lambda: False)
    available_formats.cache_clear()
    with pytest.raises(ImageError, match="is an AVIF image, which this build"):
        load_image(content)
    monkeypatch.undo()
    available_formats.cache_clear()


def test_a_server_logs_no_warnings_of_damaged_files() -> None:
    content = encoded("TIFF")
    # The tag of the picture's width has a type of two bytes, and this many values.
    place = content.index(bytes([0, 1, 4, 0, 1, 0, 0, 0]))
    damaged = content[: place + 4] + bytes([33, 0, 0, 0]) + content[place + 8 :]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(ImageError):
            load_image(damaged)
        assert caught
        caught.clear()
        formats.ignore_warnings()
        with contextlib.suppress(ImageError):
            load_image(damaged)
        assert not caught
    assert not logging.getLogger("PIL.TiffImagePlugin").isEnabledFor(logging.ERROR)
