"""OpenAI's ``tool_choice`` says which tools may or must be called."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.errors import RequestError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.tool_calls.tool_choice import ToolChoice
from mllama.requests.tool_use import tool_use_of


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


def named(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def prompt(**options: Any) -> ChatPrompt:
    return ChatPrompt(messages=[{"role": "user", "content": "Hi"}], **options)


TOOLS = [tool("look"), tool("go"), tool("stop")]


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        (None, "auto", ["look", "go", "stop"]),
        ("auto", "auto", ["look", "go", "stop"]),
        ("none", "none", []),
        ("required", "required", ["look", "go", "stop"]),
        (named("go"), "required", ["go"]),
        ("go", "required", ["go"]),
        (allowed("auto", "stop", "look"), "auto", ["look", "stop"]),
        (allowed("required", "go"), "required", ["go"]),
    ],
)
def test_a_choice(choice: Any, mode: str, names: list[str]) -> None:
    made = ToolChoice.of(choice, TOOLS)
    assert (made.mode, made.names) == (mode, names)


@pytest.mark.parametrize("tools", [None, []])
@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_without_tools_nothing_is_called(tools: Any, choice: Any) -> None:
    assert ToolChoice.of(choice, tools).mode == "none"
    assert tool_use_of(prompt(tools=tools, tool_choice=choice)) is None


@pytest.mark.parametrize(
    ("choice", "tools", "path"),
    [
        ("required", [], "tool_choice"),
        (named("look"), None, "tool_choice"),
        (named("other"), TOOLS, "tool_choice.function.name"),
        (named(3), TOOLS, "tool_choice.function.name"),
        ({"type": "function"}, TOOLS, "tool_choice.function.name"),
        (allowed("auto", "look", "x"), TOOLS,
         "tool_choice.allowed_tools.tools[1].function.name"),
        (allowed("none", "look"), TOOLS, "tool_choice.allowed_tools.mode"),
        (allowed("auto"), TOOLS, "tool_choice.allowed_tools.tools"),
        ({"type": "allowed_tools"}, TOOLS, "tool_choice.allowed_tools.mode"),
        (allowed("required", "look"), [], "tool_choice"),
        ("any", TOOLS, "tool_choice"),
        ({"type": "custom", "custom": {"name": "x"}}, TOOLS, "tool_choice"),
        (5, TOOLS, "tool_choice"),
        (None, [tool("look"), tool("look")], "tools[1].function.name"),
    ],
)  # fmt: skip
def test_a_wrong_choice_is_named(choice: Any, tools: Any, path: str) -> None:
    with pytest.raises(RequestError) as raised:
        ToolChoice.of(choice, tools)
    assert raised.value.param == path
    assert str(raised.value).startswith(path)


def test_forced_calls_are_json_whatever_the_model_writes_by_itself() -> None:
    for choice, form in (("auto", "pythonic"), ("required", "llama3_json")):
        use = tool_use_of(prompt(tools=TOOLS, tool_choice=choice), "pythonic")
        assert use is not None
        assert use.form == form


def test_a_raw_prompt_has_no_tools() -> None:
    assert tool_use_of("Hi") is None
    assert tool_use_of([1, 2]) is None


@pytest.mark.parametrize(
    ("parallel", "expected"), [(None, True), (True, True), (False, False)]
)
def test_several_calls_are_possible_unless_they_are_excluded(
    parallel: Any, expected: bool
) -> None:
    use = tool_use_of(prompt(tools=TOOLS, parallel_tool_calls=parallel))
    assert use is not None
    assert use.parallel is expected


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
def test_a_wrong_prompt_is_named(options: Any, path: str) -> None:
    with pytest.raises(RequestError) as raised:
        prompt(**options)
    assert raised.value.param == path
