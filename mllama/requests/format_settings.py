"""The arguments by which Python and the command line name a format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from mllama.errors import RequestError, quoted
from mllama.requests.output_format import OutputFormat


class FormatFields(TypedDict, total=False):
    """What :func:`output_format_from_settings` takes, for functions that pass it on."""

    response_format: Any
    guided_json: Any
    guided_regex: str | None
    guided_choice: Sequence[str] | None
    guided_grammar: str | None


def output_format_from_settings(
    *,
    response_format: Any = None,
    guided_json: Any = None,
    guided_regex: str | None = None,
    guided_choice: Sequence[str] | None = None,
    guided_grammar: str | None = None,
) -> OutputFormat | None:
    """Returns the format that arguments name; None if they name none.

    Args:
        response_format: OpenAI's object; its ``type`` alone; or a class of pydantic.
        guided_json: A JSON schema, its text, or a class of pydantic.
        guided_regex: A regular expression.
        guided_choice: Texts; none of them is no format.
        guided_grammar: A grammar, in Lark or GBNF.

    Raises:
        RequestError: If there are several, or one is wrong.
    """
    given = {
        "response_format": None if response_format == "text" else response_format,
        "guided_json": guided_json,
        "guided_regex": guided_regex,
        "guided_choice": guided_choice or None,
        "guided_grammar": guided_grammar,
    }
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        first, second, *_ = named
        raise RequestError(
            f"{first} and {second} can't be combined: an answer has one format", second
        )
    for name, value in named.items():
        if name == "response_format":
            return _response_format(value)
        if name == "guided_json":
            return OutputFormat.json_schema(
                _schema(value, name), strict=True, path=name
            )
        if name == "guided_regex":
            return OutputFormat.regex(value, path=name)
        if name == "guided_choice":
            return OutputFormat.choice(value, path=name)
        return OutputFormat.grammar(value, path=name)
    return None


def _response_format(value: Any) -> OutputFormat | None:
    name = "response_format"
    if value == "json_object":
        return OutputFormat.json_object(path=name)
    if not isinstance(value, Mapping):
        return OutputFormat.json_schema(_schema(value, name), strict=True, path=name)
    kind = value.get("type")
    expected = {"text": {"type"}, "json_object": {"type"}}
    keys = {key for key, each in value.items() if each is not None}
    if kind == "json_schema" and keys == {"type", "json_schema"}:
        return _named_schema(value["json_schema"], f"{name}.json_schema")
    if kind in expected and keys == expected[kind]:
        return None if kind == "text" else OutputFormat.json_object(path=name)
    raise RequestError(
        f"{name} must have the type text, json_object or json_schema, the last with "
        f"json_schema, and no other keys, not {quoted(dict(value))}",
        name,
    )


def _named_schema(value: Any, path: str) -> OutputFormat:
    known = {"name", "description", "schema", "strict"}
    if not isinstance(value, Mapping) or "schema" not in value or value.keys() - known:
        raise RequestError(
            f"{path} must be an object with schema, and may have name, description and "
            f"strict, not {quoted(value)}",
            path,
        )
    return OutputFormat.json_schema(
        _schema(value["schema"], f"{path}.schema"),
        strict=bool(value.get("strict")),
        path=f"{path}.schema",
    )


def _schema(value: Any, path: str) -> Any:
    """Returns a schema as plain data."""
    if isinstance(value, type) and hasattr(value, "model_json_schema"):
        return value.model_json_schema()
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no JSON: {error}", path) from error
