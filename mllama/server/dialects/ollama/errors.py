"""Errors in the form of Ollama's API: an object whose only key is ``error``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from mllama.server.compact_json import compact
from mllama.server.dialects.ollama.answers import OllamaErrorAnswer
from mllama.server.errors import ErrorReport


class OllamaErrors:
    """The form of Ollama's errors.

    Attributes:
        answer: The model of a response.
        field_names: Names in bodies of values that have another name in this package.
    """

    answer = OllamaErrorAnswer
    field_names: Mapping[str, str] = MappingProxyType(
        {
            "max_new_tokens": "options.num_predict",
            "repetition_penalty": "options.repeat_penalty",
        }
    )

    def content(self, report: ErrorReport) -> dict[str, Any]:
        """Returns the JSON of a response."""
        return {"error": report.message}

    def event(self, report: ErrorReport) -> bytes:
        """Returns the line that ends a stream."""
        return f"{compact(self.content(report))}\n".encode()


OLLAMA_ERRORS: Final = OllamaErrors()
