"""Errors in the form of OpenAI's API.

Every error, of a route that doesn't exist too, is an object ``error`` with ``message``,
``type``, ``param`` and ``code``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from mllama.server.dialects.openai.answers import ErrorAnswer
from mllama.server.errors import ErrorReport


class OpenAIErrors:
    """The form of OpenAI's errors.

    Attributes:
        answer: The model of a response.
        field_names: Names in bodies of values that have another name in this package.
    """

    answer = ErrorAnswer
    field_names: Mapping[str, str] = MappingProxyType(
        {"max_new_tokens": "max_tokens", "choices": "n"}
    )

    def content(self, report: ErrorReport) -> dict[str, Any]:
        """Returns the JSON of a response."""
        kind = (
            "rate_limit_error"
            if report.status == 429
            else "server_error"
            if report.status >= 500
            else "invalid_request_error"
        )
        return {
            "error": {
                "message": report.message,
                "type": kind,
                "param": report.param,
                "code": report.code,
            }
        }

    def event(self, report: ErrorReport) -> bytes:
        """Returns the event that ends a stream."""
        return f"data: {json.dumps(self.content(report))}\n\n".encode()


OPENAI_ERRORS: Final = OpenAIErrors()
