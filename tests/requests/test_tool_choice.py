"""OpenAI's ``tool_choice`` says which tools may or must be called."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mllama.errors import RequestError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.output_format import OutputFormat
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling
from mllama.requests.tool_calls.json_form import CALL_KEYS
from mllama.requests.tool_calls.tool_choice import ToolChoice
from mllama.requests.tool_use import answer_format, calls_have_grammar, tool_use_of


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


def request(*, output_format: Any = None, stop: Any = None, **options: Any) -> Any:
    return GenerationRequest(
        prompt=prompt(**options),
        sampling=Sampling(stop=stop),
        output_format=output_format,
    )


STRICT = {**tool("look"), "function": {**tool("look")["function"], "strict": True}}
OWN = OutputFormat.json_schema(
    {"properties": {"b": {}}, "required": ["b"]}, path="response_format"
)


def source_of(made: OutputFormat | None) -> Any:
    assert made is not None
    assert made.kind == "tool_calls"
    return json.loads(made.source)


def test_without_tools_a_request_has_its_own_format() -> None:
    for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        assert answer_format(request(output_format=OWN, **options)) is OWN
        assert answer_format(request(**options)) is None


def test_calls_that_nothing_constrains_need_no_grammar() -> None:
    assert answer_format(request(tools=TOOLS)) is None
    assert answer_format(request(tools=TOOLS, stop="x")) is None


def test_a_forced_call_has_no_text() -> None:
    made = answer_format(
        request(
            tools=[*TOOLS, {**STRICT, "function": {"name": "s", "strict": True}}],
            tool_choice=allowed("required", "go", "s"),
            parallel_tool_calls=False,
            output_format=OWN,
        )
    )
    assert made is not None
    assert made.path == "tool_choice"
    source = source_of(made)
    assert (source["text"], source["parallel"]) == (None, False)
    assert source["tools"] == [
        {
            "name": "go",
            "parameters": {},
            "is_strict": False,
            "path": "tools[1].function.parameters",
        },
        {
            "name": "s",
            "parameters": None,
            "is_strict": True,
            "path": "tools[3].function.parameters",
        },
    ]


def test_strict_tools_leave_any_other_text_possible() -> None:
    asked = request(tools=[*TOOLS[1:], STRICT], stop="x")
    source = source_of(answer_format(asked))
    assert (source["text"], source["parallel"]) == ("any", True)
    use = tool_use_of(asked.prompt, "pythonic")
    assert use is not None
    assert use.form == "llama3_json"


@pytest.mark.parametrize("path", ["response_format", "text.format.schema"])
def test_a_format_beside_tools_is_for_answers_without_calls(path: str) -> None:
    own = replace(OWN, path=path)
    for tools in (TOOLS, [STRICT]):
        source = source_of(answer_format(request(tools=tools, output_format=own)))
        assert source["text"]["kind"] == "json_schema"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tools": TOOLS}, False),
        ({"tools": TOOLS, "tool_choice": "required"}, True),
        ({"tools": [TOOLS[1], STRICT]}, True),
        ({"tools": [STRICT], "tool_choice": "none"}, False),
        ({}, False),
    ],
)
def test_forced_calls_and_those_of_strict_tools_have_a_grammar(
    options: Any, expected: bool
) -> None:
    assert calls_have_grammar(prompt(**options)) is expected


def test_a_json_object_beside_strict_tools_does_not_begin_as_a_call() -> None:
    own = OutputFormat.json_object(path="response_format")
    made = answer_format(request(tools=[STRICT], output_format=own))
    assert made is not None
    text = json.loads(made.source)["text"]
    assert (text["kind"], text["path"]) == ("json_object", "response_format")
    assert set(json.loads(text["source"])) == CALL_KEYS
    # Forced calls have no text, and calls that no schema checks may be any.
    loose = answer_format(request(tools=TOOLS, output_format=own))
    assert loose is not None
    assert json.loads(loose.source)["text"]["source"] == ""


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"tool_choice": "required", "stop": "x"}, "stop"),
        ({"output_format": OutputFormat.regex("a", path="guided_regex")}, "guided_reg"),
        (
            {
                "tools": [STRICT],
                "output_format": OutputFormat.json_schema(
                    {"properties": {"name": {}}, "required": ["name"]},
                    path="response_format",
                ),
            },
            "response_format",
        ),
    ],
)
def test_what_could_break_a_call_is_refused(options: Any, path: str) -> None:
    with pytest.raises(RequestError) as raised:
        answer_format(request(**{"tools": TOOLS, **options}))
    assert str(raised.value.param).startswith(path)
