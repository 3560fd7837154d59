"""Answers that call tools are kept to the form that is read, and to strict schemas."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from mllama.errors import RequestError
from mllama.requests.output_format import CallableTool, OutputFormat
from mllama.requests.tool_calls.collector import ToolCallCollector
from mllama.requests.tool_calls.json_form import CALL_KEYS
from mllama.requests.tool_calls.parser import ToolCallParser

from .walking import Format

LOOK: Any = {
    "type": "object",
    "properties": {
        "at": {"$ref": "#/$defs/place"},
        "times": {"type": "integer", "minimum": 1, "maximum": 3},
    },
    "required": ["at"],
    "$defs": {"place": {"enum": ["here", "thére"]}},
}
SCHEMAS: Any = {
    "look": LOOK,
    "go": None,
    "f-1": {"type": "object", "properties": {}},
    "any": {"type": "object", "properties": {"a": {"not": {"type": "null"}}}},
}


def made(*, parallel: bool = True, text: Any = None, strict: bool = False) -> Format:
    tools = [
        CallableTool(name, schema, strict and name == "look", f"tools[{name}]")
        for name, schema in SCHEMAS.items()
    ]
    made = OutputFormat.tool_calls(tools, parallel=parallel, text=text, path="tools")
    return Format(made.kind, made.source)


def read(answer: str) -> tuple[str, list[Any]]:
    """The text and the calls of an answer."""
    parser, collector, text = ToolCallParser(list(SCHEMAS)), ToolCallCollector(), ""
    for part in parser.push(answer) + parser.finish():
        if isinstance(part, str):
            text += part
        else:
            collector.add(part)
    return text, collector.calls


def check_calls(calls: list[Any]) -> None:
    for call in calls:
        schema = SCHEMAS[call.name]
        arguments = json.loads(call.arguments)
        if call.name == "look":
            jsonschema.validate(arguments, schema)
            assert set(arguments) <= {"at", "times"}
        elif call.name != "any":
            assert arguments == {}


@pytest.mark.parametrize("seed", range(40))
def test_a_forced_call_is_read_as_one_and_fits_its_schema(seed: int) -> None:
    parallel = seed % 2 == 0
    answer = made(parallel=parallel).walk(seed)
    if answer is None:
        return
    text, calls = read(answer)
    assert text == ""
    assert len(calls) >= 1
    assert parallel or len(calls) == 1
    check_calls(calls)


@pytest.mark.parametrize("seed", range(40))
def test_an_answer_is_text_or_calls_that_fit_their_schemas(seed: int) -> None:
    answer = made(text="any", strict=True).walk(seed, most=60)
    if answer is None:
        return
    text, calls = read(answer)
    assert text == ("" if calls else answer)
    check_calls(calls)


NO_CALL = OutputFormat.json_object(not_first=CALL_KEYS, path="response_format")


@pytest.mark.parametrize("seed", range(40))
def test_an_object_beside_strict_calls_is_read_as_text(seed: int) -> None:
    answer = made(text=NO_CALL, strict=True).walk(seed, most=60)
    if answer is None:
        return
    text, calls = read(answer)
    assert text == ("" if calls else answer)
    check_calls(calls)
    assert calls or isinstance(json.loads(answer), dict)


@pytest.mark.parametrize(
    ("answer", "is_accepted"),
    [
        ("{}", True),
        ('{"color": "blue", "name": "look"}', True),
        ('{"names": ["look"], "parameters": {}}', True),
        ('{"name": "look", "parameters": {"at": "here"}}', True),
        ('{"name": "look", "parameters": {"at": "elsewhere"}}', False),
        ('{"parameters": {"at": "elsewhere"}, "name": "look"}', False),
        ('{"name": "blue"}', False),
        ("Hello.", False),
    ],
)
def test_an_object_beside_strict_calls_begins_otherwise(
    answer: str, is_accepted: bool
) -> None:
    assert made(text=NO_CALL, strict=True).accepts(answer) is is_accepted


@pytest.mark.parametrize(
    "answer",
    [
        "Hello.",
        " \n- [ ] a list",
        "[1] See there.",
        "[",
        "< b",
        "<b>",
        "a {\n}",
        '{"name": "look", "parameters": {"at": "here"}}',
        '{"name": "look", "parameters": {"at": "thére", "times": 2}}; '
        '{"name": "go", "parameters": {}}',
        '{"name": "any", "parameters": {"a": [null]}}',
    ],
)
def test_text_stays_possible_beside_strict_calls(answer: str) -> None:
    assert made(text="any", strict=True).accepts(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "{",
        ' {"a": 1}',
        ' {"name": "look", "parameters": {"at": "here"}}',
        '[{"name": "look"',
        "[ {",
        "<|python_tag|>",
        '{"name": "look", "parameters": {"at": "there"}}',
        '{"name": "look", "parameters": {"at": "here", "times": 4}}',
        '{"name": "look", "parameters": {"at": "here", "b": 1}}',
        '{"name": "other", "parameters": {}}',
        '{"name": "go", "parameters": {"a": 1}}',
    ],
)
def test_no_text_can_be_read_as_another_call(answer: str) -> None:
    assert not made(text="any", strict=True).accepts(answer)


def test_a_format_is_for_answers_without_calls() -> None:
    schema = {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}
    own = OutputFormat.json_schema({"type": "object", **schema}, strict=True)
    form = made(text=own)
    assert form.accepts('{"b": true}')
    assert form.accepts('{"name": "go", "parameters": {}}')
    assert not form.accepts("Hello.")
    assert not form.accepts('{"b": 1}')


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "object", "not": {}}, "tools[0].function.parameters.not"),
        ({"type": "array"}, "tools[0].function.parameters"),
        ({"type": ["object"]}, "tools[0].function.parameters"),
        (
            {"properties": {"a": {"type": "strin"}}},
            "tools[0].function.parameters.properties.a.type",
        ),
    ],
)
def test_only_strict_schemas_that_cant_be_honored_are_errors(
    schema: Any, path: str
) -> None:
    for is_strict in (True, False):
        tool = CallableTool("f", schema, is_strict, "tools[0].function.parameters")
        form = OutputFormat.tool_calls([tool], parallel=False, text=None, path="tools")
        if is_strict:
            with pytest.raises(RequestError) as raised:
                Format(form.kind, form.source)
            assert raised.value.param == path
        else:
            accepted = '{"name": "f", "parameters": {"b": [1]}}'
            assert Format(form.kind, form.source).accepts(accepted)


def test_a_grammar_of_ones_own_cant_be_for_text_beside_calls() -> None:
    own = OutputFormat.grammar('start: "a"', path="guided_grammar")
    with pytest.raises(RequestError, match="guided_grammar can't be combined"):
        made(text=own)
