"""Errors of the Responses API, by the paths and names that its bodies have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from mllama.server.dialects.openai.errors import OpenAIErrors
from mllama.server.errors import ErrorReport

_FLAT: Final = (
    (re.compile(r"\btool_choice\.allowed_tools\b"), "tool_choice"),
    (re.compile(r"\b(tools\[\d+\]|tool_choice)\.function\."), r"\1."),
)
"""Paths of a chat's fields that are nested deeper than those of a response."""


class ResponsesErrors(OpenAIErrors):
    """The form of errors of the Responses API, which is that of the others.

    Attributes:
        field_names: Names in bodies of values that have another name in this package.
    """

    field_names: Mapping[str, str] = MappingProxyType(
        {"max_new_tokens": "max_output_tokens", "messages": "input"}
    )

    def content(self, report: ErrorReport) -> dict[str, Any]:
        """Returns the JSON of a response."""
        return super().content(flat(report))


def flat(report: ErrorReport) -> ErrorReport:
    """Returns a report with the paths of a response's body."""
    message, param = report.message, report.param
    for pattern, path in _FLAT:
        message = pattern.sub(path, message)
        param = param and pattern.sub(path, param)
    return replace(report, message=message, param=param)


RESPONSES_ERRORS: Final = ResponsesErrors()
"""The form of errors of ``/v1/responses``."""
