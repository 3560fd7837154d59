"""Lines of OpenAI's batch format: a request each, with an id of the user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from pydantic_core import from_json

from mllama.errors import quoted

MAX_LINE_BYTES: Final = 256 * 2**20
"""The longest line; a server's bodies have the same limit by default."""

MAX_ID_CHARACTERS: Final = 512
"""The longest ``custom_id`` of a line."""

_FIELDS: Final = ("custom_id", "method", "url", "body")


@dataclass(frozen=True)
class LineError:
    """Why a line can't be asked at all, in OpenAI's form.

    Attributes:
        code: A word for the kind of error.
        message: What is wrong, and the way out.
        param: The wrong field, or None.
    """

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class BatchLine:
    """A request of a batch.

    Attributes:
        number: Its line in the input, from 1.
        custom_id: The user's name for it; None if the line has none.
        url: The path of the server's API that answers it.
        body: The JSON of the request.
        picture: What its first picture is known by; None if it has none.
        attachments: Contents of pictures that the body names, by their URLs.
        unreadable: Why pictures that the body names can't be read, by their URLs.
        error: Why it can't be asked; None if it can.
        file: The name of its file; None if the whole input is one.
        place: Its line or row in its file, from 1, if that has a name.
    """

    number: int
    custom_id: str | None
    url: str = ""
    body: bytes = b""
    picture: bytes | None = None
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    error: LineError | None = None
    file: str | None = None
    place: int = 0

    @property
    def size(self) -> int:
        """Returns about how many bytes of memory it takes."""
        return 500 + len(self.body) + sum(map(len, self.attachments.values()))


CheckText = Callable[[bytes], LineError | None]
"""Returns why the text of a line is not parsed, or None if it is."""


def read_lines(file: BinaryIO, check: CheckText | None = None) -> Iterator[BatchLine]:
    """Yields the requests of a file; empty lines are none.

    Args:
        file: The file, from its beginning.
        check: Looks at each line before it is parsed.
    """
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := file.readline(2**20)) and not rest.endswith(b"\n"):
                pass
            yield _wrong(number, None, _too_long())
        elif text := raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").strip():
            error = None if check is None else check(text)
            if error is None:
                yield parse_line(text, number)
            else:
                yield _wrong(number, None, error)


def parse_line(text: bytes, number: int) -> BatchLine:
    """Returns the request of a line; a wrong one has an error.

    Args:
        text: The line's JSON.
        number: The line's number, from 1.
    """
    try:
        line = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        return _wrong(
            number, None, LineError("invalid_json_line", f"Not valid JSON: {error}.")
        )
    if not isinstance(line, dict):
        return _wrong(
            number,
            None,
            LineError("invalid_json_line", "A line must be a JSON object."),
        )
    custom_id = line.get("custom_id")
    if (
        not isinstance(custom_id, str)
        or not custom_id
        or len(custom_id) > MAX_ID_CHARACTERS
    ):
        message = (
            "`custom_id` must be a string of 1 to "
            f"{MAX_ID_CHARACTERS} characters, not {quoted(custom_id)}."
        )
        return _wrong(number, None, LineError("invalid_value", message, "custom_id"))
    if (wrong := _error_of(line)) is not None:
        return _wrong(number, custom_id, wrong)
    return BatchLine(
        number=number,
        custom_id=custom_id,
        url=line["url"],
        body=encode_body(line["body"]),
        picture=picture_of(line["body"]),
    )


def encode_body(body: Mapping[str, Any]) -> bytes:
    """Returns the JSON of a request's body."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _wrong(number: int, custom_id: str | None, error: LineError) -> BatchLine:
    return BatchLine(number=number, custom_id=custom_id, error=error)


def _too_long() -> LineError:
    return LineError(
        "invalid_json_line",
        f"The line has more than {MAX_LINE_BYTES // 2**20} MiB.",
    )


def _error_of(line: Mapping[str, Any]) -> LineError | None:
    """Returns what is wrong with a line's fields beside its id."""
    for name in line:
        if name not in _FIELDS:
            return LineError(
                "unknown_parameter",
                f"`{name[:80]}` is not a field of a batch's line; it has "
                f"{', '.join(_FIELDS)}.",
                name[:80],
            )
    if line.get("method", "POST") != "POST":
        return LineError(
            "invalid_method",
            f"`method` must be 'POST', not {quoted(line['method'])}.",
            "method",
        )
    if not isinstance(line.get("url"), str):
        return LineError(
            "invalid_url",
            "`url` must be a path such as '/v1/chat/completions', not "
            f"{quoted(line.get('url'))}.",
            "url",
        )
    if not isinstance(line.get("body"), dict):
        return LineError(
            "invalid_type",
            f"`body` must be an object, not {quoted(line.get('body'))}.",
            "body",
        )
    if line["body"].get("stream"):
        return LineError(
            "unsupported_parameter",
            "`stream` is not possible in a batch: its answers are whole.",
            "body.stream",
        )
    return None


def picture_of(body: Any) -> bytes | None:
    """Returns what a body's first picture is known by, or None if it has none.

    Two bodies whose pictures have the same source get the same.
    """
    source = _first_source(body)
    return None if source is None else picture_key(source)


def picture_key(source: str | bytes) -> bytes:
    """Returns what a picture is known by.

    Args:
        source: Its URL or its content.
    """
    content = (
        source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    )
    return hashlib.blake2b(content, digest_size=16).digest()


def _first_source(value: Any) -> str | None:
    """Returns the first ``image_url`` in a body, whatever API it is of."""
    return next(sources(value), None)


def sources(value: Any) -> Iterator[str]:
    """Yields each ``image_url`` in a body, whatever API it is of."""
    if isinstance(value, dict):
        image = value.get("image_url")
        if isinstance(image, dict):
            image = image.get("url")
        if isinstance(image, str):
            yield image
            return
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            if isinstance(each, (dict, list)):
                yield from sources(each)


def local_path(url: str, folder: Path) -> Path:
    """Returns the path that a ``file:`` URL names.

    Args:
        url: The URL.
        folder: Where relative ones begin.

    Raises:
        ValueError: If it is no URL.
    """
    # A name may have bytes that are no UTF-8.
    return folder / unquote(urlsplit(url).path, errors="surrogateescape")
