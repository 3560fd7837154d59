"""A picture for clients, made without a library, and what the demo model answers."""

import base64
import struct
import zlib

ANSWER = "A red circle left of a blue square."
QUESTION = "What is in this picture?"
SECOND_QUESTION = "How many shapes are there?"
SECOND_ANSWER = "Two."
HELLO = "Hello"
GREETING = "Hello! Show me a picture and ask me about it."
SIDE = 200


def _pixel(x: int, y: int) -> bytes:
    if (x - 50) ** 2 + (y - 100) ** 2 <= 40**2:
        return b"\xff\x00\x00"
    if abs(x - 150) <= 40 and abs(y - 100) <= 40:
        return b"\x00\x00\xff"
    return b"\xff\xff\xff"


def _chunk(kind: bytes, content: bytes) -> bytes:
    size = struct.pack(">I", len(content))
    return size + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png() -> bytes:
    """A red circle at the left and a blue square at the right."""
    rows = b"".join(
        b"\0" + b"".join(_pixel(x, y) for x in range(SIDE)) for y in range(SIDE)
    )
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def base64_png() -> str:
    """The picture in base64."""
    return base64.b64encode(png()).decode()


def data_url() -> str:
    """The picture as a URL."""
    return f"data:image/png;base64,{base64_png()}"
