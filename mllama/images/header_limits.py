"""Reads images' headers in a process that has little memory for them.

What comes before an image's pixels can be made so that Pillow keeps objects for each
few bytes of it: empty segments of a JPEG file, private chunks of a PNG file, fractions
of a TIFF file.  Each format has such places, so the limit is that of the process.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mllama.errors import ImageError
from mllama.images.formats import MAX_PIXELS, available_formats
from mllama.images.load import ImageFile, open_image

HEADER_BYTES: Final = 64 * 2**20
"""Memory for an image's header, besides copies of its file."""

COPIES: Final = 4
"""How many times a header's reader may have the file."""

_CANVASES: Final = 8 * MAX_PIXELS
"""Addresses that libwebp wants for a picture's canvases before it decodes.  It doesn't
use them yet."""


def header_bytes(file_size: int) -> int:
    """Returns the memory that the header of a file of so many bytes may take."""
    return HEADER_BYTES + COPIES * file_size


def open_with_limit(content: bytes) -> tuple[ImageFile, int]:
    """Reads an image's header, in a process that does nothing else.

    Returns:
        The image, and the memory that it takes to decode it.

    Raises:
        ImageError: If it can't be read, or not within ``header_bytes``.
    """
    available_formats()  # It loads libraries the first time.
    canvases = _CANVASES if content[:4] == b"RIFF" else 0
    try:
        with _limited_memory(header_bytes(len(content)) + canvases):
            file = open_image(content)
            return file, file.decoded_bytes
    except MemoryError:
        raise ImageError("the file has a header that takes too much memory") from None


@contextlib.contextmanager
def _limited_memory(growth: int) -> Iterator[None]:
    """Limits how much this process may grow; more is a MemoryError, or NULL in C."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except OSError:
        # A system that doesn't say how large the process is.
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    least = pages * resource.getpagesize() + growth
    for known in (soft, hard):
        if known != resource.RLIM_INFINITY:
            least = min(least, known)
    resource.setrlimit(resource.RLIMIT_AS, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
