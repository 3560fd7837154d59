"""Segments of JPEG files, as far as libjpeg's need of memory depends on them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_START_OF_SCAN: Final = 0xDA
_PROGRESSIVE: Final = (0xC2, 0xC6, 0xCA, 0xCE)
_WITHOUT_LENGTH: Final = (0x01, *range(0xD0, 0xD9))
_LAST_COEFFICIENT: Final = 63


def is_progressive(content: bytes) -> bool:
    """Returns True if each scan makes the whole picture more precise."""
    return any(marker in _PROGRESSIVE for marker, _ in _segments(content))


def has_all_bands(content: bytes) -> bool:
    """Returns True if a progressive file has brightness in all spatial frequencies.

    The scans that follow make it more precise.
    """
    for marker, segment in _segments(content):
        if marker == _START_OF_SCAN and len(segment) >= 6:
            components = segment[0]
            if components == 1 and segment[4] == _LAST_COEFFICIENT:
                return True
    return False


def first_scan_components(content: bytes) -> int:
    """Returns the number of color components in a file's first scan, 0 without one."""
    for marker, segment in _segments(content):
        if marker == _START_OF_SCAN and segment:
            return segment[0]
    return 0


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
