"""What is counted for a picture is what the process that decodes it takes at most."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest

from mllama.errors import ImageError
from mllama.images.formats import available_formats
from mllama.images.load import open_image

from .decode_memory import DecodingProcess
from .picture_kinds import KINDS

SMALL, LARGE = 640, 1280
"""Pixels of a side: what each of the others costs doesn't depend on what is fixed."""

NOISE = 2**21 / (LARGE**2 - SMALL**2)
"""Bytes a pixel by which measurements differ, since there are pages of 2 MiB."""

# One for each decoder's way to use memory; the others would need minutes.
TESTED = (
    "JPEG RGB 4:2:0",
    "JPEG RGB 4:4:4 progressive",
    "JPEG CMYK  progressive",
    "JPEG turned",
    "JPEG in scans",
    "PNG type 0 16 bit",
    "PNG type 0 16 bit keyed",
    "PNG type 2 8 bit",
    "PNG type 3 8 bit",
    "PNG type 6 16 bit interlaced",
    "WEBP RGB",
    "WEBP RGBA lossless",
    "WEBP animated",
    "AVIF RGB 4:2:0",
    "AVIF RGBA 4:4:4",
    "HEIF RGB",
    "HEIF RGBA",
    "JPEG2000 RGB lossy",
    "JPEG2000 LA lossy",
    "TIFF CMYK tiff_lzw",
    "TIFF F raw",
    "TIFF RGB one strip",
    "TIFF RGBA 16 bit",
    "GIF animated",
    "BMP in runs",
    "TGA RGBA",
    "PPM I 16 bit",
)
CUT = (
    "JPEG RGB 4:4:4",
    "PNG type 2 8 bit",
    "PNG type 6 8 bit interlaced",
    "WEBP RGB",
    "TIFF RGB raw",
    "BMP P",
)


@pytest.fixture(scope="module")
def process() -> Iterator[DecodingProcess]:
    process = DecodingProcess()
    process.start()
    # Libraries are loaded and have what they keep.
    for kind in (*TESTED, *CUT):
        process.measure(KINDS[kind](64))
    yield process
    process.close()


def growth(process: DecodingProcess, contents: list[bytes]) -> tuple[float, float]:
    """Returns bytes a pixel that a large picture takes, and that are counted for it.

    Args:
        process: Decodes.
        contents: A file of ``SMALL`` sides, and one of ``LARGE``.
    """
    # What libraries keep of one picture spares the next, now and then.
    small, large = (
        [process.measure(content) for _ in range(5)] for content in contents
    )
    assert not any(each.failure for each in (*small, *large))
    pixels = LARGE**2 - SMALL**2
    peaks = [statistics.median(each.peak for each in all_) for all_ in (small, large)]
    counted = large[0].counted - small[0].counted
    return (peaks[1] - peaks[0]) / pixels, counted / pixels


@pytest.mark.parametrize("kind", TESTED)
def test_what_decoding_takes_is_counted(kind: str, process: DecodingProcess) -> None:
    if kind.partition(" ")[0] not in available_formats():
        pytest.skip("needs the extra heif")
    taken, counted = growth(process, [KINDS[kind](side) for side in (SMALL, LARGE)])
    assert taken <= counted + NOISE
    # Pictures that would fit wait as long as others are counted for too much.
    assert counted <= 2 * (taken + NOISE)


@pytest.mark.parametrize("kind", CUT)
def test_a_missing_end_takes_no_more_than_is_counted(
    kind: str, process: DecodingProcess
) -> None:
    contents = [KINDS[kind](side) for side in (SMALL, LARGE)]
    taken, counted = growth(process, [each[: -len(each) // 50] for each in contents])
    assert taken <= counted + NOISE


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_picture_is_counted(kind: str) -> None:
    try:
        content = KINDS[kind](64)
    except KeyError:
        pytest.skip("needs the extra heif")
    try:
        file = open_image(content)
    except ImageError:
        assert kind.startswith("HEIF")
        return
    assert file.decoded_bytes >= 4 * 64 * 64
