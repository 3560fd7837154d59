"""The memory that decoding takes, known before it begins.

Pillow stores 1, 2 or 4 bytes a pixel, the conversion to RGB takes 4 more, and most
decoders have whole pictures of their own.  The numbers are upper bounds of what
``python -m tests.images.decode_memory`` measures (decision 0071).
"""

from __future__ import annotations

import io
from typing import Any, Final, NamedTuple

from PIL import Image

from mllama.images.formats import CompletedFile
from mllama.images.jpeg_segments import first_scan_components
from mllama.images.rgb import STRIP_PIXELS, is_turned

_STORED: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes of a pixel in Pillow's memory; 4 in all other modes."""

_RGB: Final = 4

_STRIP: Final = 24
"""Bytes of a pixel of a strip that is converted."""

_CUT_OFF: Final = 0.6
"""Bytes of a pixel with which a file whose end is missing is looked at."""

_BITS_PER_SAMPLE: Final = 258
_COMPRESSION: Final = 259
_SAMPLES: Final = 277
"""Tags of TIFF files."""

_TIFF_JPEG: Final = (6, 7)

_IN_PYTHON: Final = {"bmp_rle": 2, "ppm": 4, "ppm_plain": 12}
"""Decoders of Pillow that are written in Python, and their copies of the samples."""


class _Decoder(NamedTuple):
    """Bytes of a pixel that a decoder has besides Pillow's picture.

    Attributes:
        most: While it decodes.
        kept: Afterwards, for as long as there is the picture.
        copies: How many times it has the file.
    """

    most: float = 0
    kept: float = 0
    copies: int = 1


def decoded_size(picture: Image.Image) -> int:
    """Returns the bytes that it takes to decode a picture and make it RGB.

    Args:
        picture: A picture whose header has been read.
    """
    file = getattr(picture, "fp", None)
    content = file.getvalue() if isinstance(file, io.BytesIO) else b""
    decoder = _decoder(picture, content)
    stored = _STORED.get(picture.mode, 4)
    is_converted = picture.mode != "RGB" or picture.has_transparency_data
    is_copied = is_converted or isinstance(file, CompletedFile)
    copied = _RGB * (is_copied + is_turned(picture))
    most = max(decoder.most, decoder.kept + copied) + stored + _CUT_OFF
    pixels = picture.width * picture.height
    strip = min(pixels, STRIP_PIXELS) * _STRIP
    return int(pixels * most) + strip + decoder.copies * len(content)


def _decoder(picture: Any, content: bytes) -> _Decoder:
    bands = len(picture.getbands())
    match picture.format:
        case "JPEG" | "MPO":
            return _Decoder(_coefficients(picture, content))
        case "PNG" if picture.info.get("interlace"):
            # Pixels that are missing are all over the picture.
            return _Decoder(0.5, 0.5)
        case "WEBP":
            # Two canvases, and the frame that is handed over.
            lossless = 5 if b"VP8L" in content or b"ALPH" in content else 1
            return _Decoder(12 + lossless, 8, copies=2)
        case "AVIF" | "HEIF":
            # Planes of up to 16 bits, and what they are converted to.
            return _Decoder(3 * bands, 2 * bands, copies=2)
        case "JPEG2000":
            # Numbers of 32 bits, and bytes.
            return _Decoder((4 + _sample_bytes(picture)) * bands, copies=2)
        case "TIFF":
            return _Decoder(_tiff_strip(picture))
        case "GIF":
            return _Decoder(1, 1)
        case "PPM" | "BMP" if picture.tile:
            # Decoders in Python collect all samples several times.
            factor = _IN_PYTHON.get(picture.tile[0][0], 0)
            return _Decoder(factor * _STORED.get(picture.mode, 4))
    return _Decoder()


def _coefficients(picture: Any, content: bytes) -> float:
    """Returns what libjpeg needs if scans add to each other: 16 bits a coefficient."""
    layers = picture.layer
    is_whole = first_scan_components(content) == len(layers)
    if is_whole and "progressive" not in picture.info:
        return 0
    most = max(h for _, h, _, _ in layers) * max(v for _, _, v, _ in layers)
    return sum(2 * h * v / most for _, h, v, _ in layers)


def _sample_bytes(picture: Image.Image) -> int:
    return 2 if picture.mode.startswith("I;16") else 1


def _tiff_strip(picture: Any) -> float:
    """Returns the bytes a pixel of a TIFF file's strip, which may be all of it."""
    if picture.tile and picture.tile[0][0] == "raw":
        return 0
    tags = picture.tag_v2
    bits = tags.get(_BITS_PER_SAMPLE, (8,))
    widest = max(bits) if isinstance(bits, tuple) else bits
    size = max(4, tags.get(_SAMPLES, 1) * widest / 8)
    if tags.get(_COMPRESSION) in _TIFF_JPEG:
        # It may be progressive.
        size += 8
    return float(size)
