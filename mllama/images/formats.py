"""The formats of image files: one list, for every interface."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import struct
import warnings
from functools import cache
from typing import Final

from PIL import Image

from mllama.errors import ImageError

FORMATS: Final = (
    "PNG",
    "JPEG",
    "MPO",
    "GIF",
    "WEBP",
    "AVIF",
    "HEIF",
    "BMP",
    "TIFF",
    "PPM",
    "JPEG2000",
    "TGA",
)
"""The formats that Pillow may try; some others are unsafe: EPS runs Ghostscript."""

MAX_PIXELS: Final = 1 << 26
"""The limit for width times height, since a small file can unpack to any size.

It is just above the 64 megapixels of phones.
"""

MAX_SIDE: Final = 65_535
"""The limit for width and height, JPEG's: a decoder takes its time for each row."""

_HEIF_PLUGINS: Final = ("pi_heif", "pillow_heif")
"""Packages that read HEIF: the first has no encoders, whose license is the GPL."""

_HEIF_TURNS: Final = (b"irot", b"imir")
"""Boxes of a HEIF file that rotate or mirror its picture."""

EXIF_ORIENTATION: Final = "mllama_exif_orientation"
"""Key of a picture's ``info`` with the orientation to apply, where Pillow has none."""

_OTHERS: Final = (
    (rb"%PDF-", "is a PDF document: convert its pages to images"),
    (
        rb"\s*(<\?xml[^>]*>\s*)?(<!--((?!-->).)*-->\s*)*(<!DOCTYPE svg|<svg)",
        "is an SVG drawing: convert it to PNG",
    ),
    (
        rb"(?i)\s*(<!--((?!-->).)*-->\s*)*<(!doctype html|html|head|body)",
        "is a web page, not an image: give the URL of the image itself",
    ),
)
"""How other files begin, and what users hear of them.

A comment has one end only: with several, a file of comments would have more readings
than can be tried, while nobody else gets Python's lock."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS: Final = (b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"sPLT", b"hIST")
"""Chunks of a PNG file that don't change what is shown here."""

MAX_MISSING: Final = 0.1
"""Part of a picture that may be missing at its end."""

_OTHER_FILLING: Final = 0xAA
_WEBP_RESERVE: Final = 1 << 20
"""Bytes behind a file's end that missing pixels may be read from."""


class CompletedFile(io.BytesIO):
    """A file whose end is missing, with a filling in its place.

    Attributes:
        original: The content without a filling.
        other: The content with another filling; where the two differ, pixels are
            missing.
    """

    def __init__(self, original: bytes) -> None:
        super().__init__(_completed_webp(original))
        self.original = original
        self.other = _completed_webp(original, _OTHER_FILLING)


def file_content(picture: Image.Image) -> bytes | None:
    """Returns the file of a picture that is not decoded yet; None if it has none."""
    file = getattr(picture, "fp", None)
    if file is None or isinstance(file, CompletedFile):
        return None if file is None else file.original
    if isinstance(file, io.BytesIO):
        # Without a copy, unlike what is read.
        return file.getvalue()
    position = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(position)
    return content


def open_picture(content: bytes, name: str) -> Image.Image:
    """Reads an image's header.

    Args:
        content: The image file.
        name: What messages call it.

    Raises:
        ImageError: If it is of no known format, damaged, or needs a package that is not
            installed.
    """
    if not content:
        raise ImageError(f"{name} is empty: it has zero bytes")
    formats = available_formats()
    content = _without_texts(content)
    is_whole = _completed_webp(content) is content
    file = io.BytesIO(content) if is_whole else CompletedFile(content)
    try:
        picture = Image.open(file, formats=formats)
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller"
        ) from None
    except MemoryError:
        raise ImageError(f"{name} has a header that takes too much memory") from None
    # Pillow's decoders raise errors of any kind if a file is damaged.
    except Exception as error:
        raise ImageError(f"{name} {_explanation(content, formats)}") from error
    if picture.format == "HEIF" and not any(box in content for box in _HEIF_TURNS):
        # libheif turns pictures by the container, and its plugin drops what EXIF says.
        picture.info[EXIF_ORIENTATION] = picture.info.get("original_orientation")
    return picture


def ignore_warnings() -> None:
    """Ignores what Pillow warns of, in a process that decodes what others send.

    Python would log each text once, and keep it for as long as the process runs.  What
    Pillow logs reaches stderr in a process without a log.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


@cache
def available_formats() -> tuple[str, ...]:
    """Returns those of ``FORMATS`` that this installation supports."""
    Image.init()
    for plugin in _HEIF_PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(plugin).register_heif_opener(thumbnails=False)
            break
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _explanation(content: bytes, formats: tuple[str, ...]) -> str:
    """Returns what a file is that can't be opened."""
    brands = _brands(content)
    if {b"avif", b"avis"} & brands and not _supports_avif():
        return "is an AVIF image, which this build of Pillow can't read"
    if brands and not {b"avif", b"avis"} & brands and "HEIF" not in formats:
        return "is a HEIC or HEIF image, which needs pip install 'mllama[heif]'"
    for beginning, explanation in _OTHERS:
        if re.match(beginning, content[:1024], re.DOTALL):
            return explanation
    for name in formats:
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(content[:16]) is True:
            return f"is a damaged {name} file, or of a kind that can't be read"
    return f"is not an image in any of the formats {', '.join(formats)}"


def _supports_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def _brands(content: bytes) -> set[bytes]:
    """Returns the brands of a HEIF or AVIF file; none for other files."""
    if content[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(content[:4], "big"), 256)
    brands = {content[8:12]} | {content[at : at + 4] for at in range(16, size, 4)}
    known = {b"mif1", b"msf1", b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx"}
    return brands & (known | {b"heim", b"heis", b"hevm", b"hevs"})


def _without_texts(content: bytes) -> bytes:
    """Returns a PNG file without color profiles and texts, and others as they are.

    Pillow refuses files whose metadata unpack to more than a megabyte.
    """
    if not content.startswith(_PNG):
        return content
    view, at, kept = memoryview(content), len(_PNG), 0
    # Not a list of parts: millions of empty chunks would take a gigabyte.
    rest = io.BytesIO()
    while at + 8 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        end = at + 12 + size
        if content[at + 4 : at + 8] in _PNG_TEXTS:
            rest.write(view[kept:at])
            kept = end
        at = end
    if not kept:
        return content
    rest.write(view[kept:])
    # Without a copy.
    return rest.getvalue()


def _completed_webp(content: bytes, filling: int = 0) -> bytes:
    """Returns a WebP file whose end is missing with a filling in its place.

    libwebp doesn't open it otherwise, and refuses pixels that end before their chunk
    does.  A chunk behind the pixels is left out.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return content
    size = 8 + int.from_bytes(content[4:8], "little")
    if not 0 < size - len(content) <= MAX_MISSING * size:
        return content
    start, end = 12, 12
    while end + 8 <= len(content):
        start = end
        end += 8 + (int.from_bytes(content[start + 4 : start + 8], "little") + 1 & ~1)
    if end <= len(content):
        body = content[12:end]
    elif content[start : start + 4] in (b"VP8 ", b"VP8L"):
        filled = bytes([filling]) * (end - len(content) + _WEBP_RESERVE)
        payload = content[start + 8 :] + filled
        length = struct.pack("<I", len(payload))
        body = content[12 : start + 4] + length + payload
    else:
        body = content[12:start]
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
