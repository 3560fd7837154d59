"""Lines of answers in OpenAI's batch format."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from mllama.batch.lines import BatchLine, LineError
from mllama.batch.seen_ids import repeat_of
from mllama.errors import MllamaError

_ERROR: Final = 400
"""The first HTTP status that says that a request has failed."""

REPEATED_ID: Final = "duplicate_custom_id"
"""The code of the error of a line whose id another line has."""

_BEGINNING: Final = b'{"id":"batch_req_' + 32 * b"0" + b'","custom_id":'
"""How each line begins; its 0s stand for any hexadecimal digits."""

_DIGIT: Final = ord("0")
_HEX_DIGITS: Final = b"0123456789abcdef"


@dataclass(frozen=True)
class LineAnswer:
    """The answer to a line that was asked.

    Attributes:
        status: The HTTP status that a server would have answered with.
        body: The JSON of the answer, or of the error, on one line.
        request_id: The request's id in the log.
    """

    status: int
    body: bytes
    request_id: str

    @property
    def is_error(self) -> bool:
        """Returns True if it is no answer but an error."""
        return self.status >= _ERROR

    @property
    def error_message(self) -> str:
        """Returns what an error says."""
        return str(from_json(self.body)["error"]["message"])

    @property
    def completion_tokens(self) -> int:
        """Returns the number of tokens that the usage in the body names."""
        usage = from_json(self.body).get("usage") or {}
        return usage.get("completion_tokens") or usage.get("output_tokens") or 0


def answered(line: BatchLine, answer: LineAnswer) -> bytes:
    """Returns the line of an answer."""
    head = {"status_code": answer.status, "request_id": answer.request_id}
    # The body is JSON already.
    return b'%s%s,"body":%s},"error":null}\n' % (
        _start(line),
        _json(head)[:-1],
        answer.body,
    )


def failed(line: BatchLine, error: LineError, *, is_numbered: bool = True) -> bytes:
    """Returns the line of a request that could not be asked.

    Args:
        line: The request.
        error: Why.
        is_numbered: Whether the user knows the line by its number.
    """
    content: dict[str, Any] = {"code": error.code, "message": error.message}
    if is_numbered and line.file is not None:
        content |= {"file": line.file, "line": line.place}
    elif is_numbered:
        content["line"] = line.number
    if error.param is not None:
        content["param"] = error.param
    return b'%snull,"error":%s}\n' % (_start(line), _json(content))


def _start(line: BatchLine) -> bytes:
    names = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": line.custom_id}
    return _json(names)[:-1] + b',"response":'


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def identity_of(line: BatchLine) -> str:
    """Returns what a line and its answer are known by: its id, or where it is."""
    number = line.number if line.file is None else line.place
    return _identity(line.custom_id, line.file, number)


def old_identity_of(line: BatchLine) -> str:
    """Returns what a line and its answer were known by before files were named."""
    return _identity(line.custom_id, None, line.number)


def may_begin_answer(text: bytes) -> bool:
    """Returns True if a line of an answer, as it is written here, may begin so.

    Args:
        text: The beginning of a line, of any length.
    """
    return all(
        byte == expected or (expected == _DIGIT and byte in _HEX_DIGITS)
        for byte, expected in zip(text, _BEGINNING, strict=False)
    )


def answered_identity(text: bytes) -> str:
    """Returns what the line of an answer is known by.

    Raises:
        MllamaError: If it is no such line.
    """
    try:
        result = from_json(text)
        custom_id = result["custom_id"]
        if custom_id is not None and not isinstance(custom_id, str):
            raise TypeError
        # A request has an id as well, but no such fields.
        _, error = result["response"], result["error"]
        if custom_id is None:
            identity = _identity(None, error.get("file"), error["line"])
        else:
            identity = _identity(custom_id, None, 0)
        is_repeat = error is not None and error["code"] == REPEATED_ID
        return repeat_of(identity) if is_repeat else identity
    except (ValueError, TypeError, KeyError, AttributeError):
        raise MllamaError("not an answer of a batch") from None


def is_error_line(text: bytes) -> bool:
    """Returns True if the line of an answer has an error in its place.

    Raises:
        MllamaError: If it is no such line.
    """
    answered_identity(text)
    try:
        result = from_json(text)
        return (
            result["error"] is not None or result["response"]["status_code"] >= _ERROR
        )
    except (TypeError, KeyError):
        raise MllamaError("not an answer of a batch") from None


def _identity(custom_id: str | None, file: str | None, number: int) -> str:
    if custom_id is not None:
        return f"id {custom_id}"
    return f"line {number}" if file is None else f"line {number} of {file}"
