"""Items of the input become messages and images."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from mllama.server.capabilities import ServerCapabilities
from tests.server.dialects.fake_engine import VOCABULARY, FakeEngine
from tests.server.dialects.openai.conftest import error_of

from .conftest import CALL, TOOL, Responses

LONG = bytes(range(256)) * 1000
"""A picture whose base64 is kept apart from the body."""

USER = {"role": "user", "content": "Hi"}
TEXT = {"type": "input_text", "text": "What is it?"}


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def image(url: str, **more: Any) -> Any:
    return {"type": "input_image", "image_url": url, **more}


def user(*content: Any, **more: Any) -> Any:
    return {"role": "user", "content": list(content), **more}


def said(text: str, **more: Any) -> Any:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "role": "assistant", "content": [part], **more}


def call(call_id: str, arguments: str = "{}") -> Any:
    head = {"type": "function_call", "call_id": call_id}
    return {**head, "name": "look", "arguments": arguments}


def result(call_id: str, output: Any = "a circle") -> Any:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def test_a_text_is_a_message_of_the_user(api: Responses) -> None:
    api.answer(input="What?", instructions="Be brief.")
    assert api.prompt().messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?"},
    ]


def test_messages_keep_their_roles_and_order(api: Responses) -> None:
    assert api.messages(
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {**USER, "type": "message", "id": "msg_1", "status": "completed"},
        {"role": "assistant", "content": "Hello."},
        {"role": "system", "content": "Be kind."},
        user(TEXT, TEXT),
    ) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}] * 2},
    ]


@pytest.mark.parametrize("content", [b"short", LONG])
def test_images_are_seen_in_their_place(api: Responses, content: bytes) -> None:
    url = data_url(content)
    response = api.answer(
        input=[
            user(image(url, detail="high"), TEXT),
            said("Well."),
            user(TEXT, image("http://pictures/one.png"), image(url.partition(",")[2])),
        ]
    )
    assert list(api.engine.requests[0].images) == [content, b"one", content]
    first, _, last = api.prompt().messages
    kinds = [part["type"] for part in first["content"] + last["content"]]
    assert kinds == ["image", "text", "text", "image", "image"]
    assert response["usage"]["input_tokens_details"]["image_tokens"] == 15


def test_long_base64_in_a_text_stays_text(api: Responses) -> None:
    (message,) = api.messages(user({**TEXT, "text": data_url(LONG)}))
    assert message["content"] == [{"type": "text", "text": data_url(LONG)}]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (data_url(b"broken"), "the image is broken"),
        ("http://pictures/missing.png", "can't be fetched"),
        ("not base64!", "base64"),
    ],
)
def test_a_broken_image_is_named_by_number_and_path(
    api: Responses, url: str, reason: str
) -> None:
    items = [user(image(data_url(b"fine"))), user(TEXT, image(url))]
    error = error_of(api.respond(input=items))
    assert error["message"].startswith("image 2: ")
    assert reason in error["message"]
    assert error["param"] == "input[1].content[1].image_url"
    assert error["code"] == "invalid_image"


def test_the_limits_of_images_hold() -> None:
    limited = ServerCapabilities(
        model_name="served", vocabulary=VOCABULARY, max_images=2, max_image_bytes=10
    )
    api = Responses(capabilities=limited)
    picture = image(data_url(b"123456"))
    error = error_of(api.respond(input=[user(*[picture] * 3)]))
    assert (error["param"], "3 images" in error["message"]) == ("input", True)
    error = error_of(api.respond(input=[user(*[picture] * 2)]))
    assert "MAX_SERVE_MAX_MEDIA_BYTES" in error["message"]


def test_an_answer_comes_back_accepted_as_the_next_turn(api: Responses) -> None:
    (item,) = api.answer()["output"]
    # As the SDK's models write it, with every field that OpenAI has.
    full = {**item, "phase": None}
    for turn in (item, full, {"role": "assistant", "content": "Hello!"}):
        _, answer, _ = api.messages(USER, turn, USER)
        assert answer == {"role": "assistant", "content": "Hello!"}


def test_calls_come_back_accepted_with_their_results() -> None:
    api = Responses(FakeEngine(f"{CALL}; {CALL} Done."))
    output = api.answer(tools=[TOOL])["output"]
    first, second = (item["call_id"] for item in output[:2])
    results = [result(second, "a square"), result(first, [TEXT, TEXT])]
    _, answer, *found = api.messages(USER, *output, *results, USER, tools=[TOOL])
    assert answer["content"] == " Done."
    assert [each["id"] for each in answer["tool_calls"]] == [first, second]
    assert answer["tool_calls"][0]["function"] == {
        "name": "look",
        "arguments": {"at": "it"},
    }
    assert found == [
        {"role": "tool", "tool_call_id": second, "content": "a square"},
        {"role": "tool", "tool_call_id": first, "content": TEXT["text"] * 2},
        USER,
    ]


def test_each_answer_has_its_own_calls(api: Responses) -> None:
    messages = api.messages(
        USER,
        said("Let me look."),
        call("a"),
        result("a"),
        # The id of an earlier answer's call may come again.
        call("a"),
        result("a"),
        said("A circle."),
        said("Red."),
        USER,
    )
    roles = [message["role"] for message in messages]
    assert roles == ["user"] + ["assistant", "tool"] * 2 + ["assistant"] * 2 + ["user"]
    assert messages[1]["content"] == "Let me look."
    assert messages[3]["content"] == ""


@pytest.mark.parametrize(
    ("items", "path"),
    [
        ([USER, result("no")], "input[1].call_id"),
        ([USER, call("a"), USER], "input[1]"),
        ([USER, call("a")], "input[1]"),
        ([USER, call("a"), call("b"), result("a")], "input[2]"),
        ([USER, call("a"), USER, result("a")], "input[1]"),
        ([USER, call("a"), call("b"), result("a"), call("c")], "input[2]"),
        ([USER, call("a"), call("a")], "input[2].call_id"),
        ([USER, call("a", "{"), result("a")], "input[1].arguments"),
        ([USER, call("a", "[1]"), result("a")], "input[1].arguments"),
    ],
)
def test_calls_and_results_must_match(api: Responses, items: Any, path: str) -> None:
    error = error_of(api.respond(input=items))
    assert error["param"] == path
    assert path in error["message"]
    assert not api.engine.requests


def test_another_models_reasoning_is_left_out(api: Responses) -> None:
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Hm."}],
        "encrypted_content": "secret",
    }
    messages = api.messages(USER, reasoning, call("a"), result("a"), reasoning, USER)
    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant", "tool", "user"]


def test_reasoning_in_a_message_is_left_out(api: Responses) -> None:
    thought = {"type": "reasoning_text", "text": "Hm."}
    text = {"type": "output_text", "text": "Oh."}
    only = {"type": "message", "role": "assistant", "content": [thought]}
    both = {**only, "content": [thought, text]}
    messages = api.messages(USER, only, both, USER, only)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "Oh."
    cut = {**only, "status": "incomplete"}
    api.answer(input=[USER, cut])
    assert api.prompt().continue_final_message is False


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [(None, False), ("completed", False), ("incomplete", True), ("in_progress", True)],
)
def test_an_answer_goes_on_with_a_message_that_was_cut(
    api: Responses, status: str | None, goes_on: bool
) -> None:
    api.answer(input=[USER, said("Oh", status=status)])
    prompt = api.prompt()
    assert prompt.continue_final_message is goes_on
    assert prompt.begins_turn is not goes_on
    # Only the last item can be gone on with.
    api.answer(input=[USER, said("Oh", status=status), USER])
    assert not api.prompt().continue_final_message


def test_a_model_that_judges_messages_takes_the_assistants_as_the_last() -> None:
    judge = replace(Responses().capabilities, continues_messages=False)
    api = Responses(capabilities=judge)
    for status in ("completed", "incomplete"):
        api.answer(input=[USER, said("Oh", status=status)])
        assert api.prompt().add_generation_prompt is None
        assert not api.prompt().continue_final_message


def test_functions_reach_the_prompt(api: Responses) -> None:
    parameters = {"type": "object", "properties": {"a": {"default": None}}}
    tool = {"name": "look", "description": "d", "parameters": parameters}
    api.answer(
        tools=[{"type": "function", **tool, "strict": None}, {**TOOL, "name": "go"}],
        tool_choice={"type": "function", "name": "look"},
        parallel_tool_calls=False,
    )
    prompt = api.prompt()
    assert prompt.tools is not None
    assert prompt.tools[0] == {"type": "function", "function": tool}
    assert prompt.callable_tools.names == ["look"]
    assert prompt.callable_tools.mode == "required"
    assert prompt.parallel_tool_calls is False
    allowed = {"mode": "auto", "tools": [{"type": "function", "name": "go"}]}
    api.answer(
        tools=[TOOL, {**TOOL, "name": "go"}],
        tool_choice={"type": "allowed_tools", **allowed},
    )
    assert api.prompt().callable_tools.names == ["go"]
    for choice, mode in (("none", "none"), ("required", "required"), (None, "auto")):
        api.answer(tools=[TOOL], tool_choice=choice)
        assert api.prompt().callable_tools.mode == mode
