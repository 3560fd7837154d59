"""Errors in the form of Anthropic's API.

Every error has the ``type`` ``error``, an object ``error`` with a ``type`` and a
``message``, and the ``request_id``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from mllama.errors import RequestError
from mllama.server.compact_json import compact
from mllama.server.dialects.anthropic.answers import MessageErrorAnswer
from mllama.server.errors import ErrorReport

_TYPES: Final = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
    }
)

_NO_THREADS: Final = MappingProxyType({"error_code": "thread_unsupported_request"})
"""What tells the SDK's tool runner to send whole conversations instead."""

_NAMES: Final = (
    (re.compile(r"(\btools\[\d+\])\.function\.parameters\b"), r"\1.input_schema"),
    (re.compile(r"(\btools\[\d+\]|\btool_choice)\.function\.name\b"), r"\1.name"),
    (re.compile(r"^stop\b"), "stop_sequences"),
    (re.compile(r"^max_new_tokens\b"), "max_tokens"),
)
"""Paths of values in the form that this package has, and their names in bodies."""

_MESSAGE: Final = re.compile(r"\bmessage (\d+)\b")


class AnthropicErrors:
    """The form of Anthropic's errors.

    Attributes:
        answer: The model of a response.
        field_names: Names in bodies of values that have another name in this package.
    """

    answer = MessageErrorAnswer
    field_names: Mapping[str, str] = MappingProxyType(
        {"max_new_tokens": "max_tokens", "stop": "stop_sequences"}
    )

    def content(self, report: ErrorReport) -> dict[str, Any]:
        """Returns the JSON of a response."""
        kind = _TYPES.get(
            report.status,
            "api_error" if report.status >= 500 else "invalid_request_error",
        )
        error: dict[str, Any] = {"type": kind, "message": report.message}
        if report.param == "thread":
            error["details"] = dict(_NO_THREADS)
        return {"type": "error", "error": error, "request_id": report.request_id}

    def event(self, report: ErrorReport) -> bytes:
        """Returns the event that ends a stream."""
        return f"event: error\ndata: {compact(self.content(report))}\n\n".encode()


ANTHROPIC_ERRORS: Final = AnthropicErrors()


def error_about_body(error: RequestError, places: Sequence[str]) -> RequestError:
    """Returns an error whose message has the names of a body of this API.

    Args:
        error: An error whose message has the names of this package.
        places: Where the body has each message of the prompt.
    """
    message = str(error)
    for pattern, name in _NAMES:
        message = pattern.sub(name, message)

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        return places[number - 1] if 0 < number <= len(places) else match[0]

    return RequestError(_MESSAGE.sub(place, message), error.param)
