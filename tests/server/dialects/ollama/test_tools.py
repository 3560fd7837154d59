"""Calls of tools and their results."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mllama.requests.tool_use import answer_format
from tests.server.dialects.fake_engine import FakeEngine

from .conftest import ONE, USER, Api, answer_of, error_of, lines_of

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks at something",
        "parameters": {
            "type": "object",
            "required": ["at"],
            "properties": {"at": {"type": "string", "description": "What"}},
        },
    },
}
LARGEST = sys.float_info.max
CALL = '{"name": "look", "parameters": {"at": "it"}}'


def call(at: str = "it", **fields: Any) -> Any:
    """A call as Ollama's messages have it."""
    return {**fields, "function": {"name": "look", "arguments": {"at": at}}}


def asked(*calls: Any) -> Any:
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def result(content: str = "seen", **fields: Any) -> Any:
    return {"role": "tool", "content": content, **fields}


def test_an_answer_has_whole_calls_with_their_arguments_as_objects() -> None:
    api = Api(FakeEngine(f"{CALL}; {CALL}"))
    answer = answer_of(api.chat(tools=[TOOL]))
    assert answer["message"]["content"] == ""
    assert answer["done_reason"] == "stop"
    calls = answer["message"]["tool_calls"]
    assert [each["function"] for each in calls] == [
        {"index": index, "name": "look", "arguments": {"at": "it"}} for index in (0, 1)
    ]
    assert calls[0]["id"] != calls[1]["id"]
    assert api.prompt.tools == [TOOL]


def test_a_stream_has_each_call_in_one_line() -> None:
    api = Api(FakeEngine(f"{CALL}; {CALL}"))
    *lines, end = lines_of(api.chat(tools=[TOOL], stream=True))
    assert [line["message"]["content"] for line in lines] == ["", ""]
    indices = [
        each["function"]["index"]
        for line in lines
        for each in line["message"]["tool_calls"]
    ]
    assert indices == [0, 1]
    assert "tool_calls" not in end["message"]
    assert end["done_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"at": 1e999, "by": -1e999}', {"at": LARGEST, "by": -LARGEST}),
        ('{"at": "\\ud800x"}', {"at": "?x"}),
    ],
)
def test_arguments_are_json_whatever_the_model_writes(
    arguments: str, expected: Any, stream: bool
) -> None:
    api = Api(FakeEngine(f'{{"name": "look", "parameters": {arguments}}}'))
    response = api.chat(tools=[TOOL], stream=stream)
    line = lines_of(response)[0] if stream else answer_of(response)
    assert line["message"]["tool_calls"][0]["function"]["arguments"] == expected


@pytest.mark.parametrize("text", ['{"name": "look", "parameters": nope', "Hello!"])
def test_what_is_no_call_is_text(text: str) -> None:
    api = Api(FakeEngine(text))
    answer = answer_of(api.chat(tools=[TOOL]))
    assert answer["message"] == {"role": "assistant", "content": text}
    lines = lines_of(api.chat(tools=[TOOL], stream=True))
    assert "".join(line["message"]["content"] for line in lines) == text
    assert not any("tool_calls" in line["message"] for line in lines)


def test_a_call_that_a_limit_cuts_short_is_left_out() -> None:
    api = Api(FakeEngine(CALL))
    answer = answer_of(api.chat(tools=[TOOL], options={"num_predict": 35}))
    assert answer["message"] == {"role": "assistant", "content": ""}
    assert answer["done_reason"] == "length"


def test_without_tools_a_call_is_text() -> None:
    api = Api(FakeEngine(CALL))
    assert answer_of(api.chat())["message"]["content"] == CALL
    assert answer_of(api.chat(tools=[]))["message"]["content"] == CALL


@pytest.mark.parametrize(
    ("calls", "results", "ids"),
    [
        # By order, as Ollama's own examples have it.
        ([call()], [result()], ["call_1_0"]),
        ([call(), call("b")], [result(), result()], ["call_1_0", "call_1_1"]),
        # By the tool's name.
        ([call()], [result(tool_name="look")], ["call_1_0"]),
        ([call()], [result(name="look")], ["call_1_0"]),
        # By ids, as Open WebUI has it.
        (
            [call(id="a"), call("b", id="b")],
            [result(tool_call_id="b"), result(tool_call_id="a")],
            ["b", "a"],
        ),
        # Ids of results for calls that have none say nothing.
        ([call()], [result(tool_call_id="x")], ["call_1_0"]),
        ([call(type="function", index=0)], [result()], ["call_1_0"]),
    ],
)
def test_a_result_finds_its_call(
    api: Api, calls: Any, results: Any, ids: list[str]
) -> None:
    answer_of(api.chat(messages=[USER, asked(*calls), *results], tools=[TOOL]))
    found = api.prompt.messages[2:]
    assert [each["tool_call_id"] for each in found] == ids
    sent = api.prompt.messages[1]["tool_calls"][0]["function"]
    assert sent == {"name": "look", "arguments": {"at": "it"}}


def test_an_answers_calls_come_back_accepted() -> None:
    api = Api(FakeEngine(CALL))
    message = answer_of(api.chat(tools=[TOOL]))["message"]
    answer_of(api.chat(messages=[USER, message, result(tool_name="look")]))
    identity = message["tool_calls"][0]["id"]
    assert api.prompt.messages[2]["tool_call_id"] == identity


def test_results_whose_calls_were_cut_off_at_the_beginning_are_left_out(
    api: Api,
) -> None:
    system = {"role": "system", "content": "Be brief."}
    messages = [system, result(), asked(call()), result(), USER]
    answer_of(api.chat(messages=messages, tools=[TOOL]))
    roles = [message["role"] for message in api.prompt.messages]
    assert roles == ["system", "assistant", "tool", "user"]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER, asked(call()), result(), result()], "`messages[3]` is for no call"),
        (
            [USER, asked(call()), result(tool_name="other")],
            "`messages[2].tool_name` is for no call",
        ),
        (
            [USER, asked(call(id="a")), result(tool_call_id="b")],
            "`messages[2].tool_call_id` is for no call",
        ),
        ([USER, asked(call()), USER], "`messages[1].tool_calls[0]` has no message"),
        ([USER, asked(call())], "`messages[1].tool_calls[0]` has no message"),
        (
            [result(), USER, asked(call(), call("b")), result()],
            "`messages[2].tool_calls[1]` has no message",
        ),
        ([result()], "`messages` has only results of tools, whose calls are missing"),
        ([{**USER, "tool_calls": [call()]}], "`messages[0].tool_calls` is for"),
        ([{**USER, "tool_name": "look"}], "`messages[0].tool_name` is for"),
        (
            [USER, asked(call()), result(images=[ONE])],
            "`messages[2].images` is for messages of the role user",
        ),
        (
            [USER, asked({"function": {"name": "look", "arguments": "{}"}})],
            "`messages[1].tool_calls[0].function.arguments` must be an object",
        ),
        ([{"role": "robot", "content": "Hi"}], "`messages[0].role` must be"),
        ([{"role": "user", "content": [{"type": "text"}]}], "`messages[0].content`"),
    ],
)
def test_messages_that_do_not_match_are_refused(
    api: Api, messages: Any, message: str
) -> None:
    assert message in error_of(api.chat(messages=messages))


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ({"type": "web", "function": {"name": "a"}}, "`tools[0].type`"),
        ({"type": "function"}, "`tools[0].function` is required"),
        ({"function": {"name": ""}}, "`tools[0].function.name` must match"),
        ({"function": {"name": "a", "x": 1}}, "`tools[0].function.x`"),
    ],
)
def test_tools_are_checked(api: Api, tool: Any, message: str) -> None:
    assert message in error_of(api.chat(tools=[tool]))


def test_a_format_beside_tools_is_that_of_answers_without_calls() -> None:
    api = Api(FakeEngine(CALL))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    answer = answer_of(api.chat(tools=[TOOL], format=schema))
    assert answer["message"]["tool_calls"]
    made = answer_format(api.last)
    assert made is not None
    assert made.kind == "tool_calls"
