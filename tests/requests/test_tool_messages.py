"""Calls of tools and their results belong together."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.errors import RequestError
from mllama.requests.tool_messages import check_tool_messages, read_arguments

USER = {"role": "user", "content": "Hi"}


def call(id_: Any = "a", **function: Any) -> dict[str, Any]:
    function = {"name": "look", "arguments": "{}"} | function
    return {"id": id_, "type": "function", "function": function}


def calls(*made: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(made)}


def result(name: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": "x"}


def named(name: Any) -> dict[str, Any]:
    return {"role": "tool", "name": name, "content": "x"}


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [USER, calls(call("a"), call("b")), result("b"), result("a"), USER],
        [USER, calls(call("a")), result("a"), calls(call("a")), result("a")],
        [USER, calls(call("a"), call("b", name="go")), named("go"), named("look")],
        [USER, calls(call("a"), call("b")), named("look"), named("look"), USER],
        [USER, calls(call("a"))],
        [USER, calls(call("a", arguments={"x": 1})), result("a")],
        [USER, {"role": "assistant", "content": "x", "tool_calls": None}, USER],
    ],
)
def test_results_after_their_calls_are_valid(messages: Any) -> None:
    check_tool_messages(messages)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([result("a")], "messages[0].tool_call_id"),
        ([USER, calls(call("a")), result("b")], "messages[2].tool_call_id"),
        ([USER, calls(call("a")), result(None)], "messages[2].tool_call_id"),
        ([USER, calls(call("a")), named("go")], "messages[2].name"),
        ([USER, calls(call("a")), named("look"), named("look")], "messages[3].name"),
        ([USER, calls(call("a")), result(["a"])], "messages[2].tool_call_id"),
        (
            [USER, calls(call("a")), result("a"), result("a")],
            "messages[3].tool_call_id",
        ),
        (
            [USER, calls(call("a")), result("a"), USER, result("a")],
            "messages[4].tool_call_id",
        ),
        ([USER, calls(call("a")), USER], "messages[1].tool_calls[0]"),
        (
            [USER, calls(call("a"), call("b")), result("a")],
            "messages[1].tool_calls[1]",
        ),
        ([calls(call("a")), calls(call("b"))], "messages[0].tool_calls[0]"),
        ([calls("look")], "messages[0].tool_calls[0]"),
        ([calls({"id": "a", "name": "look"})], "messages[0].tool_calls[0]"),
        ([calls(call(None))], "messages[0].tool_calls[0].id"),
        ([calls(call("a"), call("a"))], "messages[0].tool_calls[1].id"),
        ([calls(call("a", name=5))], "messages[0].tool_calls[0].function.name"),
        (
            [calls(call("a", arguments="{"))],
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            [calls(call("a", arguments=[1]))],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ([{"role": "assistant", "tool_calls": "look"}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": {"a": 1}}], "messages[0].tool_calls"),
    ],
)
def test_what_does_not_match_is_named(messages: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_tool_messages(messages)
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ({"a": [1]}, {"a": [1]}),
        ("", {}),
        (" ", {}),
        (None, {}),
    ],
)
def test_arguments_are_an_object_or_its_json(arguments: Any, read: Any) -> None:
    assert read_arguments(arguments, "path") == read
