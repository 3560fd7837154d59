"""Keeps pictures in a body apart from its JSON.

A photo of 10 MB holds the event loop for tens of milliseconds if it is parsed with the
rest of the body, and again if its base64 is decoded there, and with it every stream of
tokens.  Here long strings of base64, ``data:`` URLs or not, are cut out of a body
before it is parsed; a thread decodes them piece by piece.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_LONG: Final = 64 * 1024
"""Strings that are shorter, in bytes, are parsed with the rest of the body."""

HEAD_BYTES: Final = 256
"""Bytes of a string that tell what it is."""

_PIECE: Final = 256 * 1024
"""Bytes that are looked at at once: a fraction of a millisecond."""

_LINE_ENDS: Final = (b"\\n", b"\\r")
"""The ends of lines as JSON has them."""

_START: Final = re.compile(rb"(?:data:[^\",]{0,200},)?[A-Za-z0-9+/=_\\-]{256}")
"""The first bytes of a string that may be base64, or a ``data:`` URL of it."""


@dataclass(frozen=True)
class DetachedBody:
    """A body without its long strings of base64.

    Attributes:
        text: The JSON text, in which a short name stands for each of them.
        strings: The strings by their names, as JSON has them between the quotes.
    """

    text: bytes | bytearray
    strings: Mapping[str, memoryview]


def detach(body: bytes | bytearray) -> DetachedBody:
    """Replaces long strings of base64 in a JSON text with short names.

    The names are random, so that no request can hold one by itself.  A caller that
    finds a name in another place than that of an image has to parse the body itself.
    """
    if len(body) < _LONG:
        return DetachedBody(body, {})
    view, done = memoryview(body), 0
    parts: list[bytes | memoryview] = []
    strings: dict[str, memoryview] = {}
    prefix = f"mllama-{secrets.token_hex(16)}-"
    seen = 0
    # A string that is long enough contains one of these places.
    for place in range(_LONG, len(body), _LONG):
        if place < seen:
            continue
        start = body.rfind(b'"', seen, place) + 1
        end = body.find(b'"', place)
        if end < 0:
            break
        seen = end
        if start == 0 or not _is_base64(body, start, end):
            continue
        name = f"{prefix}{len(strings)}"
        strings[name] = view[start:end]
        parts += [view[done:start], name.encode()]
        done = end
    if not strings:
        return DetachedBody(body, {})
    return DetachedBody(b"".join([*parts, view[done:]]), strings)


def _is_base64(body: bytes | bytearray, start: int, end: int) -> bool:
    """Returns True if a part between two quotes looks like a string of base64."""
    return (
        # A quote after a backslash is part of a text.
        body[start - 2 : start - 1] != b"\\"
        and _START.match(body, start, end) is not None
        and _has_known_escapes(body, start, end)
    )


def _has_known_escapes(body: bytes | bytearray, start: int, end: int) -> bool:
    """Returns True if the only escapes in a part of a JSON text are of slashes and, in
    base64 of lines, of their ends."""
    known = [b"\\/"]
    if has_lines(body[start : start + HEAD_BYTES]):
        known += _LINE_ENDS
    view = memoryview(body)[start:end]
    for piece in _pieces(view):
        escapes = piece.count(b"\\")
        if escapes and escapes != sum(map(piece.count, known)):
            return False
    return True


def has_lines(head: bytes | bytearray) -> bool:
    """Returns True if the first bytes of base64 in JSON are of more than one line."""
    return any(each in head for each in _LINE_ENDS)


def without_line_ends(string: memoryview) -> bytearray:
    """Returns base64 in JSON as one line, without holding Python's lock for long."""
    line = bytearray()
    for piece in _pieces(string):
        for each in _LINE_ENDS:
            piece = piece.replace(each, b"")
        line += piece
    return line


def _pieces(string: memoryview) -> Iterator[bytes]:
    """Yields a string piece by piece.  Other threads get Python's lock in between.

    A backslash and what follows it stay together.
    """
    rest = b""
    for start in range(0, len(string), _PIECE):
        piece = rest + string[start : start + _PIECE]
        rest = b"\\" if piece.endswith(b"\\") else b""
        yield piece[: len(piece) - len(rest)]
        time.sleep(0)
    yield rest
