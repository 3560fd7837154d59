"""The format that a body asks for."""

from __future__ import annotations

import json
from typing import Any

from mllama.requests.output_format import OutputFormat
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.dialects.openai.format_fields import (
    FormatFields,
    JsonObjectFormat,
    JsonSchemaFormat,
    StructuredOutputs,
    TextFormat,
)


def openai_output_format(body: FormatFields) -> OutputFormat | None:
    """Returns the format that a body asks for; None if it asks for none.

    Raises:
        RequestRejected: If it asks for several.
        RequestError: If the format is wrong.
    """
    outputs = body.structured_outputs
    is_text = isinstance(body.response_format, TextFormat)
    given = {
        "response_format": None if is_text else body.response_format,
        **{f"guided_{name}": getattr(body, f"guided_{name}") for name in _GUIDED},
        **({} if outputs is None else _structured(outputs)),
    }
    named = {path: value for path, value in given.items() if value is not None}
    if outputs is not None and not any(map(_is_structured, named)):
        raise RequestRejected(
            "`structured_outputs` must have a format, such as `json`.",
            "structured_outputs",
            code="invalid_value",
        )
    if len(named) > 1:
        first, second, *_ = named
        raise RequestRejected(
            f"`{first}` and `{second}` can't be combined: an answer has one format.",
            second,
            code="invalid_value",
        )
    for path, value in named.items():
        if path == "response_format":
            return _response_format(value)
        closes = outputs.disable_additional_properties if outputs is not None else None
        return _guided(path, value, is_strict=closes is not False)
    return None


_GUIDED = ("json", "regex", "choice", "grammar")


def _is_structured(path: str) -> bool:
    return path.startswith("structured_outputs.")


def _structured(outputs: StructuredOutputs) -> dict[str, Any]:
    """Returns the formats of vLLM's object by their paths."""
    given = {
        "json": outputs.json_,
        "regex": outputs.regex,
        "choice": outputs.choice,
        "grammar": outputs.grammar,
        "json_object": outputs.json_object or None,
    }
    return {f"structured_outputs.{name}": value for name, value in given.items()}


def _response_format(value: JsonObjectFormat | JsonSchemaFormat) -> OutputFormat:
    if isinstance(value, JsonObjectFormat):
        return OutputFormat.json_object(path="response_format")
    return OutputFormat.json_schema(
        value.json_schema.schema_,
        strict=bool(value.json_schema.strict),
        path="response_format.json_schema.schema",
    )


def _guided(path: str, value: Any, *, is_strict: bool) -> OutputFormat:
    kind = path.removeprefix("guided_").removeprefix("structured_outputs.")
    if kind == "json_object":
        return OutputFormat.json_object(path=path)
    if kind == "regex":
        return OutputFormat.regex(value, path=path)
    if kind == "choice":
        return OutputFormat.choice(value, path=path)
    if kind == "grammar":
        return OutputFormat.grammar(value, path=path)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RequestRejected(
                f"`{path}` is no JSON: {error}.", path, code="invalid_value"
            ) from error
    return OutputFormat.json_schema(value, strict=is_strict, path=path)
