"""Calls of tools are told from text."""

from __future__ import annotations

import json

import pytest

from mllama.requests.tools import ToolCallParser

CALL = '{"name": "look", "parameters": {"at": "a \\"ü\\""}}'


def parsed(text: str, *names: str, size: int = 1) -> tuple[str, list[tuple[str, str]]]:
    """The text and the calls of an answer that comes in pieces."""
    parser = ToolCallParser(names)
    pieces = [
        parser.push(text[start : start + size]) for start in range(0, len(text), size)
    ]
    rest, calls = parser.finish()
    return "".join(pieces) + rest, [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_call_is_not_text(size: int) -> None:
    text, ((name, arguments),) = parsed(CALL, "look", size=size)
    assert (text, name) == ("", "look")
    assert json.loads(arguments) == {"at": 'a "ü"'}


@pytest.mark.parametrize("between", ["; ", ";", "\n", ", ", ""])
def test_several_calls_may_follow_each_other(between: str) -> None:
    answer = f" {CALL}{between}" + '{"name": "go", "arguments": {}}\n'
    text, calls = parsed(answer, "look", "go")
    assert text == ""
    assert [name for name, _ in calls] == ["look", "go"]
    assert calls[1][1] == "{}"


@pytest.mark.parametrize(
    "answer",
    [
        "Hello.",
        "",
        " \n",
        "{",
        '{"name": "look"}',
        '{"name": "look", "parameters": "x"}',
        '{"name": ["look"], "parameters": {}}',
        '{"name": "other", "parameters": {}}',
        CALL + " That is it.",
        CALL[:-1],
        "Sure: " + CALL,
        "[" + CALL + "]",
        "{" * 5000,
        '{"a":' * 5000,
    ],
)
def test_all_else_is_text_as_it_is(answer: str) -> None:
    assert parsed(answer, "look") == (answer, [])


def test_without_tools_all_is_text_at_once() -> None:
    parser = ToolCallParser()
    assert parser.push(CALL) == CALL
    assert parser.finish() == ("", [])


def test_text_is_passed_on_as_soon_as_it_is_no_call() -> None:
    parser = ToolCallParser(["look"])
    assert parser.push(" ") == ""
    assert parser.push("T") == " T"
    assert parser.push("{") == "{"


def test_arguments_are_valid_text_whatever_the_model_writes() -> None:
    answer = '{"name": "look", "parameters": {"at": "\\ud800"}}'
    _, ((_, arguments),) = parsed(answer, "look")
    arguments.encode()


def test_each_call_has_an_id_of_its_own() -> None:
    parser = ToolCallParser(["look"])
    parser.push(CALL + CALL)
    _, calls = parser.finish()
    assert len({call.id for call in calls}) == 2
