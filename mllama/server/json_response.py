"""Responses in JSON, large ones of which are written while other requests go on."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from typing import Any, Final

from starlette.responses import Response

from mllama.server.turns import in_turns

_DEEPEST: Final = 5
"""Levels of an answer whose values are written one by one.  Below, they are small."""

_TURN: Final = 0.002
"""Seconds after which other tasks have a turn."""

_FEW: Final = 4096
"""Entries of a list of numbers or texts that are written at once."""

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


class JsonText(str):
    """A part of a response that is JSON already, which takes a tenth of its objects."""

    __slots__ = ()


def json_text(value: Any) -> JsonText:
    """Returns a value as JSON."""
    return JsonText(_encode(value))


async def json_response(content: Any, status: int = 200) -> Response:
    """Returns a response with a value as JSON.

    Log probabilities may make it tens of megabytes, which would hold the event loop.
    """
    body = await in_turns(_written(content))
    return Response(body, status, media_type="application/json")


def _written(content: Any) -> Generator[None, None, bytes]:
    """Returns a value's JSON, and yields in between."""
    body = bytearray()
    pieces: list[str] = []
    end = time.perf_counter() + _TURN
    for piece in _pieces(content, 0):
        pieces.append(piece)
        if time.perf_counter() > end:
            body += "".join(pieces).encode()
            pieces.clear()
            yield
            end = time.perf_counter() + _TURN
    body += "".join(pieces).encode()
    return bytes(body)


def _pieces(value: Any, level: int) -> Iterator[str]:
    """Yields a value's JSON piece by piece."""
    if isinstance(value, JsonText):
        yield value
    elif level > _DEEPEST or not isinstance(value, (dict, list, tuple)) or not value:
        yield _encode(value)
    elif isinstance(value, dict):
        before = "{"
        for key, each in value.items():
            yield f"{before}{_encode(key)}:"
            yield from _pieces(each, level + 1)
            before = ","
        yield "}"
    elif isinstance(value[0], (dict, list, tuple, JsonText)):
        before = "["
        for each in value:
            yield before
            yield from _pieces(each, level + 1)
            before = ","
        yield "]"
    else:
        before = "["
        for start in range(0, len(value), _FEW):
            yield before + _encode(value[start : start + _FEW])[1:-1]
            before = ","
        yield "]"
