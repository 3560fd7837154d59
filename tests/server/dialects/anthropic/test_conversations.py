"""Turns of a body, and the messages of the prompt that they become."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from mllama.errors import RequestError
from mllama.server.capabilities import ServerCapabilities
from tests.server.dialects.fake_engine import VOCABULARY

from .conftest import CALL, RESULT, TOOL, USER, Api, error_of

LONG = bytes(range(256)) * 1000
"""A picture whose base64 is kept apart from the body."""


def text(content: str, **more: Any) -> Any:
    return {"type": "text", "text": content, **more}


def image(content: bytes = b"one") -> Any:
    data = base64.b64encode(content).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"type": "image", "source": source}


def user(*blocks: Any) -> Any:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> Any:
    return {"role": "assistant", "content": list(blocks)}


IMAGE = {"type": "image"}
ASSISTANT_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "look", "arguments": {"at": "it"}},
        }
    ],
}


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Be brief.", "Be brief."),
        (
            [
                text("Be", cache_control={"type": "ephemeral", "ttl": "1h"}),
                text(" brief."),
            ],
            "Be brief.",
        ),
        (
            [
                text("x-anthropic-billing-header: cc_version=2; cch=1;"),
                text("Be brief."),
            ],
            "Be brief.",
        ),
    ],
)
def test_instructions_are_the_first_message(
    api: Api, system: Any, expected: str
) -> None:
    prompt = api.prompt(system=system)
    assert prompt.messages == [{"role": "system", "content": expected}, USER]


@pytest.mark.parametrize("system", ["", [], None])
def test_empty_instructions_are_none(api: Api, system: Any) -> None:
    assert api.prompt(system=system).messages == [USER]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([user(text("H"), text("i"))], [USER]),
        (
            [user(text("What"), image(), text("is it?"))],
            [user(text("What"), IMAGE, text("is it?"))],
        ),
        # Messages of one role are one turn.
        ([user(text("A")), USER], [{"role": "user", "content": "A\n\nHi"}]),
        ([user(image()), USER], [user(IMAGE, text("Hi"))]),
        (
            [USER, {"role": "system", "content": "Be brief."}, USER],
            [USER, {"role": "system", "content": "Be brief."}, USER],
        ),
        (
            [
                USER,
                assistant(
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    text("Oh", citations=None),
                ),
                USER,
            ],
            [USER, {"role": "assistant", "content": "Oh"}, USER],
        ),
        (
            [USER, assistant(CALL), user(RESULT)],
            [
                USER,
                ASSISTANT_CALL,
                {"role": "tool", "content": "a wall", "tool_call_id": "toolu_1"},
            ],
        ),
        # A text before the call, an image in the result, a failure, and the rest.
        (
            [
                USER,
                assistant(text("Well."), {**CALL, "caller": {"type": "direct"}}),
                user(
                    {
                        **RESULT,
                        "content": [text("a "), image(), text("wall")],
                        "is_error": True,
                    },
                    text("So?"),
                ),
            ],
            [
                USER,
                {**ASSISTANT_CALL, "content": "Well."},
                {
                    "role": "tool",
                    "content": "Error: a wall",
                    "tool_call_id": "toolu_1",
                },
                user(IMAGE, text("So?")),
            ],
        ),
        # Results in two messages, in another order than the calls.
        (
            [
                USER,
                assistant(CALL, {**CALL, "id": "toolu_2"}),
                user({"type": "tool_result", "tool_use_id": "toolu_2"}),
                user(RESULT, text("So?")),
            ],
            [
                USER,
                {
                    **ASSISTANT_CALL,
                    "tool_calls": [
                        *ASSISTANT_CALL["tool_calls"],
                        {**ASSISTANT_CALL["tool_calls"][0], "id": "toolu_2"},  # type: ignore[dict-item]
                    ],
                },
                {"role": "tool", "content": "", "tool_call_id": "toolu_2"},
                {"role": "tool", "content": "a wall", "tool_call_id": "toolu_1"},
                {"role": "user", "content": "So?"},
            ],
        ),
    ],
)
def test_turns_become_messages(api: Api, turns: Any, expected: Any) -> None:
    prompt = api.prompt(messages=turns)
    assert prompt.messages == expected
    assert not prompt.continue_final_message


@pytest.mark.parametrize(
    ("turns", "path"),
    [
        ([USER, assistant(CALL), USER], "messages[1].content[0]"),
        ([USER, assistant(CALL)], "messages[1].content[0]"),
        (
            [USER, assistant(CALL), {"role": "system", "content": "x"}, user(RESULT)],
            "messages[1].content[0]",
        ),
        ([user(RESULT)], "messages[0].content[0].tool_use_id"),
        (
            [USER, assistant(text("x")), user(RESULT)],
            "messages[2].content[0].tool_use_id",
        ),
        (
            [USER, assistant(CALL), user(RESULT, RESULT)],
            "messages[2].content[1].tool_use_id",
        ),
        ([USER, assistant(CALL), user(text("x"), RESULT)], "messages[2].content[1]"),
        ([USER, assistant(CALL, CALL), user(RESULT)], "messages[1].content[1].id"),
        (
            [USER, assistant(CALL), assistant(CALL), user(RESULT)],
            "messages[2].content[0].id",
        ),
    ],
)
def test_calls_and_results_must_match(api: Api, turns: Any, path: str) -> None:
    for response in (api.send(messages=turns), api.count(messages=turns)):
        assert error_of(response)["message"].startswith(f"`{path}` ")
    assert not api.engine.requests


@pytest.mark.parametrize(
    "last", [{"role": "assistant", "content": "Oh "}, assistant(text("Oh"), text(" "))]
)
def test_an_answer_goes_on_with_the_assistants_last_turn(api: Api, last: Any) -> None:
    prompt = api.prompt(messages=[USER, last])
    assert prompt.messages[-1] == {"role": "assistant", "content": "Oh "}
    assert prompt.continue_final_message
    assert not prompt.begins_turn
    answer = api.message(messages=[USER, last])
    assert answer["content"] == [text("Hello!")]


def test_a_model_that_judges_messages_takes_the_assistants_as_the_last() -> None:
    judge = replace(Api().capabilities, continues_messages=False)
    prompt = Api(capabilities=judge).prompt(
        messages=[USER, {"role": "assistant", "content": "Oh"}]
    )
    assert not prompt.continue_final_message


@pytest.mark.parametrize("content", [b"short", LONG])
def test_images_are_seen_in_order(api: Api, content: bytes) -> None:
    url = {"type": "image", "source": {"type": "url", "url": "http://pictures/one.png"}}
    turns = [
        user(
            {**image(content), "cache_control": {"type": "ephemeral"}},
            text("What is it?"),
            {**url, "transformations": {"oversized_image": "downsize"}},
        ),
        assistant(CALL),
        user({**RESULT, "content": [image(b"three")]}, image(content[::-1])),
    ]
    answer = api.message(messages=turns)
    images = [content, b"one", b"three", content[::-1]]
    assert list(api.engine.requests[0].images) == images
    assert api.count(messages=turns).json() == {
        "input_tokens": answer["usage"]["input_tokens"]
    }


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (image(b"broken"), "the image is broken"),
        ({"type": "image", "source": {"type": "base64", "data": "?"}}, "base64"),
        (
            {
                "type": "image",
                "source": {"type": "url", "url": "http://pictures/missing.png"},
            },
            "can't be fetched",
        ),
    ],
)
def test_a_broken_image_is_named_by_its_number(
    api: Api, broken: Any, reason: str
) -> None:
    turns = [USER, assistant(CALL), user({**RESULT, "content": [image()]}, broken)]
    for response in (api.send(messages=turns), api.count(messages=turns)):
        message = error_of(response)["message"]
        assert message.startswith("image 2: ")
        assert reason in message
    assert not api.engine.requests


def test_a_url_is_not_fetched_where_base64_belongs(api: Api) -> None:
    source = {"type": "base64", "data": "http://pictures/one.png"}
    response = api.send(messages=[user({"type": "image", "source": source})])
    message = error_of(response)["message"]
    assert message.startswith("`messages[0].content[0].source.data` must be base64")
    assert not api.engine.images


def test_too_many_images_are_refused_before_they_are_loaded(api: Api) -> None:
    response = api.send(messages=[user(*[image()] * 5)])
    assert "5 images" in error_of(response)["message"]
    assert not api.engine.images


def test_the_files_of_all_images_share_a_limit() -> None:
    limited = ServerCapabilities(
        model_name="served", vocabulary=VOCABULARY, max_image_bytes=10
    )
    api = Api(capabilities=limited)
    api.message(messages=[user(image(b"12345"), image(b"12345"))])
    response = api.send(messages=[user(image(b"123456"), image(b"12345"))])
    assert "MAX_SERVE_MAX_MEDIA_BYTES" in error_of(response)["message"]


def test_long_base64_in_a_text_stays_text(api: Api) -> None:
    data = base64.b64encode(LONG).decode()
    prompt = api.prompt(messages=[{"role": "user", "content": data}])
    assert prompt.messages[0]["content"] == data


@pytest.mark.parametrize(
    ("asked", "choice", "mode", "names", "parallel"),
    [
        (None, None, "auto", ["look", "go"], None),
        ({"type": "auto"}, "auto", "auto", ["look", "go"], None),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            "auto",
            "auto",
            ["look", "go"],
            False,
        ),
        (
            {"type": "any", "disable_parallel_tool_use": False},
            "required",
            "required",
            ["look", "go"],
            None,
        ),
        (
            {"type": "tool", "name": "go", "disable_parallel_tool_use": True},
            {"type": "function", "function": {"name": "go"}},
            "required",
            ["go"],
            False,
        ),
        ({"type": "none"}, "none", "none", [], None),
    ],
)
def test_a_choice_of_tools_reaches_the_model(
    api: Api, asked: Any, choice: Any, mode: str, names: list[str], parallel: Any
) -> None:
    tools = [TOOL, {**TOOL, "name": "go", "type": "custom"}]
    prompt = api.prompt(tools=tools, tool_choice=asked)
    assert prompt.tool_choice == choice
    assert prompt.callable_tools.mode == mode
    assert prompt.callable_tools.names == names
    assert prompt.parallel_tool_calls is parallel


def test_examples_are_added_to_a_list_only(api: Api) -> None:
    schema = {"type": "object", "examples": "abc"}
    tool = {**TOOL, "input_schema": schema, "input_examples": [{"at": "b"}]}
    error = error_of(api.send(tools=[TOOL | {"name": "other"}, tool]))
    assert error["message"] == (
        "`tools[1].input_schema.examples` must be a list, not 'abc'."
    )


def test_a_tool_is_described_to_the_model(api: Api) -> None:
    tool = {
        **TOOL,
        "description": "Looks.",
        "input_schema": {"type": "object", "examples": [{"at": "a"}]},
        "input_examples": [{"at": "b"}],
        "strict": True,
        "cache_control": {"type": "ephemeral"},
        "allowed_callers": ["direct"],
        "defer_loading": False,
    }
    prompt = api.prompt(tools=[tool])
    assert prompt.tools == [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Looks.",
                "parameters": {
                    "type": "object",
                    "examples": [{"at": "a"}, {"at": "b"}],
                },
                "strict": True,
            },
        }
    ]


@pytest.mark.parametrize(
    ("internal", "shown"),
    [
        ("stop can't be combined with x", "stop_sequences can't be combined with x"),
        ("max_new_tokens must be less", "max_tokens must be less"),
        (
            "tools[1].function.parameters.properties.a.not is refused",
            "tools[1].input_schema.properties.a.not is refused",
        ),
        (
            "this chat template leaves out the text of message 3",
            "this chat template leaves out the text of messages[1].content[0]",
        ),
        ("message 9: x", "message 9: x"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_the_names_of_the_body(
    api: Api, internal: str, shown: str, stream: bool
) -> None:
    api.engine.error = RequestError(internal, "messages")
    turns = [assistant(CALL), user(RESULT), USER]
    response = api.send(system="Be brief.", messages=turns, stream=stream)
    assert error_of(response)["message"] == shown
