"""Answers fit their schemas, and every value that fits is an answer."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis import strategies as st

from mllama.errors import RequestError
from tests.grammars.instances import instances
from tests.grammars.schema_strategy import SCHEMAS, without_recursion
from tests.grammars.walking import (
    AcceptedTexts,
    Format,
    UndecidedError,
    has_plain_numbers,
)

CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


def fits(value: Any, schema: Any) -> bool:
    validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKER)
    return validator.is_valid(value)


# The same schemas in each run.
@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(SCHEMAS, st.booleans(), st.data())
def test_answers_fit_schemas_and_values_that_fit_are_answers(
    schema: Any, strict: bool, data: st.DataObject
) -> None:
    # A property that is required, but not named, contradicts a schema that is strict.
    strict = strict and "other" not in json.dumps(schema)
    made = Format("json_schema", schema, strict=strict)
    for seed in range(3):
        text = made.walk(seed)
        if text is not None:
            assert fits(json.loads(text), schema), (text, made.grammar)
    if strict:
        return
    value = data.draw(instances(without_recursion(schema)))
    # The strategy is of draft 7, which has no prefixItems.
    assume(fits(value, schema) and has_plain_numbers(value))
    names = list(dict.fromkeys(_names(schema)))
    try:
        is_accepted = any(
            next(texts.texts(value), None) is not None
            for texts in (
                AcceptedTexts(made, names, has_exponents=True),
                AcceptedTexts(made, names, has_exponents=False),
            )
        )
    except UndecidedError:
        reject()
    assert is_accepted, (value, made.grammar)


def _names(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        # Those of properties, and of objects that are listed.
        return list(schema) + [n for each in schema.values() for n in _names(each)]
    return (
        [n for each in schema for n in _names(each)] if isinstance(schema, list) else []
    )


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"not": {}}}}, "format.properties.a.not"),
        ({"if": {}, "then": {}}, "format.if"),
        ({"type": "array", "uniqueItems": True}, "format.uniqueItems"),
        ({"type": "array", "contains": {}}, "format.contains"),
        ({"type": "object", "patternProperties": {}}, "format.patternProperties"),
        ({"type": "object", "dependentRequired": {}}, "format.dependentRequired"),
        ({"type": "integer", "multipleOf": 3}, "format.multipleOf"),
        ({"type": "string", "format": "phone"}, "format.format"),
        ({"type": "string", "pattern": "(?=a)b"}, "format.pattern"),
        ({"type": "string", "maxLength": 10**6}, "format.maxLength"),
        ({"enum": ["a"], "minLength": 1}, "format.minLength"),
        ({"$ref": "#/$defs/missing"}, "format.$ref"),
        ({"$ref": "https://example.org/a"}, "format.$ref"),
        ({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}, "format.$defs.a.not"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "format.$defs.a",
        ),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "format.oneOf"),
        ({"oneOf": [{"minimum": 1}, {"maxLength": 2}]}, "format.oneOf"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "format.allOf[1].pattern"),
        ({"type": "object", "nullable": True}, "format.nullable"),
        ({"items": [{"type": "string"}]}, "format.items"),
        ({"type": "strin"}, "format.type"),
        ({"minimum": 10**40}, "format.minimum"),
        ({"anyOf": []}, "format.anyOf"),
        ({"enum": [{"a": n} for n in range(1001)]}, "format.enum"),
        (
            {"type": "object", "properties": {f"a{n}": {} for n in range(501)}},
            "format.properties",
        ),
        (
            {"properties": {"a": {}}, "type": "object", "maxProperties": 0},
            "format.maxProperties",
        ),
    ],
)
def test_what_can_not_be_honored_is_refused_by_its_path(schema: Any, path: str) -> None:
    with pytest.raises(RequestError) as raised:
        Format("json_schema", schema)
    assert raised.value.param == path
    assert str(raised.value).startswith(path)
    assert "\n" not in str(raised.value)


def _properties(count: int, *required: str, **others: bool) -> dict[str, Any]:
    properties = {f"a{n}": {"type": "null"} for n in range(count)}
    return {"type": "object", "properties": properties, "required": required, **others}


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"value {n}" for n in range(3000)]},
        {"type": "array", "items": {"enum": list(range(5000))}, "maxItems": 3},
        {"enum": [1.0, "1", *({"a": n} for n in range(1000))]},
        _properties(500, additionalProperties=False),
        _properties(500),
        _properties(501, "a500"),
    ],
)
def test_long_lists_have_answers(schema: Any) -> None:
    made = Format("json_schema", schema)
    texts = [made.walk(seed) for seed in range(3)]
    assert any(text is not None for text in texts)
    for text in texts:
        assert text is None or fits(json.loads(text), schema)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": ["a"], "type": "integer"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"allOf": [{"type": "string"}, {"type": "null"}]},
        {"type": "integer", "minimum": 2, "maximum": 1},
    ],
)
def test_a_schema_without_values_is_refused(schema: Any) -> None:
    with pytest.raises(RequestError, match="fits no value"):
        Format("json_schema", schema)


@pytest.mark.parametrize("names", [{"pattern": "^[a-c]+$"}, {"enum": ["a", "bc"]}])
@pytest.mark.parametrize("text", ['{"bc": 1}', '{"bc": true, "x": false}'])
def test_names_by_a_pattern_stand_beside_any_names(names: Any, text: str) -> None:
    objects = {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "propertyNames": names,
    }
    others = {"type": "object", "additionalProperties": {"type": "boolean"}}
    assert Format("json_schema", {"anyOf": [objects, others]}).accepts(text)
