"""Fields that ask for a format become the format of the engine's request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mllama.requests.output_format import OutputFormat

from .conftest import Api, error_of

SCHEMA = {"type": "object", "properties": {"a": {"type": ["integer", "null"]}}}
NAMED = {"name": "n", "schema": SCHEMA}


def asked(api: Api, **fields: Any) -> OutputFormat | None:
    """Returns the format of a chat's and of a completion's request, which are alike."""
    assert api.chat(**fields).status_code == 200
    assert api.complete(**fields).status_code == 200
    chat, completion = api.engine.requests[-2:]
    assert chat.output_format == completion.output_format
    return chat.output_format


@pytest.mark.parametrize(
    ("fields", "kind", "source", "is_strict", "path"),
    [
        (
            {"response_format": {"type": "json_object"}},
            "json_object",
            "",
            False,
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
            "json_schema",
            SCHEMA,
            False,
            "response_format.json_schema.schema",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": NAMED | {"strict": True, "description": None},
                }
            },
            "json_schema",
            SCHEMA,
            True,
            "response_format.json_schema.schema",
        ),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA, True, "guided_json"),
        (
            {"guided_json": json.dumps(SCHEMA)},
            "json_schema",
            SCHEMA,
            True,
            "guided_json",
        ),
        ({"guided_regex": "a+"}, "regex", "a+", False, "guided_regex"),
        ({"guided_choice": ["a", "b"]}, "choice", ["a", "b"], False, "guided_choice"),
        (
            {"guided_grammar": "start: A"},
            "grammar",
            "start: A",
            False,
            "guided_grammar",
        ),
        (
            {"structured_outputs": {"json": SCHEMA}},
            "json_schema",
            SCHEMA,
            True,
            "structured_outputs.json",
        ),
        (
            {
                "structured_outputs": {
                    "json": SCHEMA,
                    "disable_additional_properties": False,
                }
            },
            "json_schema",
            SCHEMA,
            False,
            "structured_outputs.json",
        ),
        (
            {"structured_outputs": {"regex": "a"}},
            "regex",
            "a",
            False,
            "structured_outputs.regex",
        ),
        (
            {"structured_outputs": {"json_object": True}},
            "json_object",
            "",
            False,
            "structured_outputs.json_object",
        ),
    ],
)
def test_a_field_asks_for_a_format(
    api: Api, fields: Any, kind: str, source: Any, is_strict: bool, path: str
) -> None:
    found = asked(api, **fields)
    assert found is not None
    assert (found.kind, found.is_strict, found.path) == (kind, is_strict, path)
    text = found.source
    assert (text if isinstance(source, str) else json.loads(text)) == source


def test_text_is_no_format(api: Api) -> None:
    assert asked(api) is None
    assert asked(api, response_format={"type": "text"}, guided_json=None) is None
    assert asked(api, response_format={"type": "text"}, guided_regex="a") is not None


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            {"response_format": {"type": "json_object"}, "guided_json": SCHEMA},
            "guided_json",
        ),
        (
            {"structured_outputs": {"regex": "a", "json": {}}},
            "structured_outputs.regex",
        ),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "structured"),
    ],
)
def test_two_formats_are_refused(api: Api, fields: Any, path: str) -> None:
    error = error_of(api.chat(**fields))
    assert error["param"].startswith(path)
    assert "one format" in error["message"]
