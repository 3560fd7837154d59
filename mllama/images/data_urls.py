"""Decoding of ``data:`` URLs (RFC 2397), which releases Python's lock now and then."""

from __future__ import annotations

import base64
import time
from typing import Final
from urllib.parse import unquote_to_bytes

from mllama.errors import ImageError

_PIECE: Final = 256 * 1024
"""Base64 that is decoded at once, in bytes: a fraction of a millisecond."""

_QUOTED_PIECE: Final = 64 * 1024
"""Characters of a percent-encoded text that are decoded at once: each may take 75 bytes
meanwhile."""

_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_IGNORED: Final = b" \t\n\f\r\\"
"""White space, and the backslash of JSON's other form of a slash."""


def data_url_content(url: str) -> bytes:
    """Returns the content of a ``data:`` URL, in base64 or percent-encoded.

    Raises:
        ImageError: If the URL is damaged.
    """
    header, comma, data = url.partition(",")
    if not comma:
        raise ImageError("the data: URL has no comma before its content")
    if not is_base64(header):
        return percent_decoded(data)
    return decode_base64(
        percent_decoded(data) if "%" in data else data.encode("utf-8", "replace")
    )


def percent_decoded(text: str | memoryview) -> bytes:
    """Decodes a percent-encoded text without holding Python's lock for long."""
    decoded: list[bytes] = []
    rest = b""
    for start in range(0, len(text), _QUOTED_PIECE):
        piece = text[start : start + _QUOTED_PIECE]
        rest += piece.encode("utf-8", "replace") if isinstance(piece, str) else piece
        # A percent sign and its two digits stay together.
        sign = rest.find(b"%", max(0, len(rest) - 2))
        end = len(rest) if sign < 0 else sign
        decoded.append(unquote_to_bytes(rest[:end]))
        rest = rest[end:]
        time.sleep(0)  # Other threads get the lock.
    decoded.append(unquote_to_bytes(rest))
    return b"".join(decoded)


def is_base64(header: str) -> bool:
    """Returns True if what precedes a ``data:`` URL's comma announces base64."""
    return "".join(header.lower().split()).endswith(";base64")


def decode_base64(text: bytes | memoryview) -> bytes:
    """Decodes base64 without holding Python's lock for long.

    Clients wrap long lines, omit the padding or use the alphabet for URLs.  None of
    these makes the content ambiguous, so all are accepted.

    Raises:
        ImageError: If it is damaged.
    """
    decoded: list[bytes] = []
    rest, is_padded = b"", False
    try:
        for start in range(0, len(text), _PIECE):
            piece = bytes(text[start : start + _PIECE])
            rest += piece.translate(_TO_STANDARD, _IGNORED)
            whole = len(rest) - len(rest) % 4
            if is_padded and rest:
                raise ValueError("padding in the middle")
            is_padded = rest.find(b"=", 0, whole) >= 0
            decoded.append(base64.b64decode(rest[:whole], validate=True))
            rest = rest[whole:]
            time.sleep(0)  # Other threads get the lock.
        decoded.append(base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True))
    except ValueError as error:
        raise ImageError(f"the data: URL's base64 is damaged: {error}") from error
    return b"".join(decoded)
