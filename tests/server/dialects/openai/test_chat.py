"""Whole answers to chats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mllama.max_model.message_forms import read_messages
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.messages import read_conversation
from mllama.server.dialects.openai.answers import ChatCompletion
from tests.server.dialects.fake_engine import FakeEngine

from .conftest import USER, Api, error_of

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"at": "it"}'},
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}


def test_an_answer_has_the_schemas_form(api: Api) -> None:
    answer = api.chat().json()
    ChatCompletion.model_validate(answer, strict=True)
    (choice,) = answer["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello!",
        "refusal": None,
    }
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    assert answer["model"] == "served"
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 7,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 0},
    }


def test_a_limit_ends_an_answer(api: Api) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = api.chat(**{name: 2}).json()
        assert answer["choices"][0]["message"]["content"] == "He"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 2


def test_a_request_without_a_limit_gets_the_servers() -> None:
    api = Api()
    api.chat()
    assert api.engine.requests[0].sampling.max_new_tokens == -1


def test_several_choices_come_in_order() -> None:
    api = Api(FakeEngine("one", "two", "three"))
    answer = api.chat(n=3).json()
    ChatCompletion.model_validate(answer, strict=True)
    assert [
        (choice["index"], choice["message"]["content"]) for choice in answer["choices"]
    ] == [(0, "one"), (1, "two"), (2, "three")]
    assert answer["usage"]["completion_tokens"] == 4 + 4 + 6


@pytest.mark.parametrize("top", [None, 0, 1, 20])
def test_log_probabilities_have_as_many_entries_as_asked_for(top: int | None) -> None:
    api = Api(FakeEngine("Hi"))
    answer = api.chat(logprobs=True, top_logprobs=top).json()
    ChatCompletion.model_validate(answer, strict=True)
    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["H", "i"]
    assert [entry["bytes"] for entry in content] == [[72], [105]]
    assert [len(entry["top_logprobs"]) for entry in content] == [top or 0] * 2
    assert all(entry["logprob"] == -0.25 for entry in content)


def test_parts_of_a_character_have_their_real_bytes() -> None:
    api = Api(FakeEngine("😀"))
    answer = api.chat(logprobs=True).json()
    entries = answer["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [[240], [159], [152], [128]]
    assert [entry["token"] for entry in entries] == [
        "\\xf0",
        "\\x9f",
        "\\x98",
        "\\x80",
    ]
    assert answer["choices"][0]["message"]["content"] == "😀"


def test_an_answer_comes_back_accepted_as_the_next_turn(api: Api) -> None:
    message = api.chat().json()["choices"][0]["message"]
    # As the SDK's models write it, with every field that OpenAI has.
    full = {
        **message,
        **dict.fromkeys(("annotations", "audio", "function_call", "tool_calls")),
    }
    for turn in (message, full):
        assert api.chat(messages=[USER, turn, USER]).status_code == 200
        prompt = api.engine.requests[-1].prompt
        assert isinstance(prompt, ChatPrompt)
        assert prompt.messages[1] == {"role": "assistant", "content": "Hello!"}


def test_calls_of_tools_come_back_accepted_with_their_results() -> None:
    api = Api(FakeEngine('{"name": "look", "parameters": {"at": "it"}}'))
    answer = api.chat(tools=[TOOL]).json()
    ChatCompletion.model_validate(answer, strict=True)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"at": "it"}'}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "a circle"}
    assert api.chat(messages=[USER, choice["message"], result]).status_code == 200
    prompt = api.engine.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    function = prompt.messages[1]["tool_calls"][0]["function"]
    assert function == {"name": "look", "arguments": {"at": "it"}}
    assert prompt.messages[2]["tool_call_id"] == call["id"]


@pytest.mark.parametrize(
    "options", [{}, {"tools": [TOOL], "tool_choice": "none"}, {"tools": []}]
)
def test_without_tools_json_is_text(options: Any) -> None:
    text = '{"name": "look", "parameters": {"at": "it"}}'
    api = Api(FakeEngine(text))
    (choice,) = api.chat(**options).json()["choices"]
    assert choice["message"]["content"] == text
    assert choice["finish_reason"] == "stop"
    prompt = api.engine.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert not prompt.callable_tools.tools


def test_only_one_call_is_returned_where_several_are_not_wanted() -> None:
    call = '{"name": "look", "parameters": {}}'
    api = Api(FakeEngine(f"{call}; {call}"))
    for parallel, count in ((None, 2), (True, 2), (False, 1)):
        answer = api.chat(tools=[TOOL], parallel_tool_calls=parallel).json()
        assert len(answer["choices"][0]["message"]["tool_calls"]) == count


def test_echo_repeats_the_message_that_the_answer_goes_on_with(api: Api) -> None:
    messages = [USER, {"role": "assistant", "content": "Oh. "}]
    answer = api.chat(messages=messages, continue_final_message=True, echo=True)
    assert answer.json()["choices"][0]["message"]["content"] == "Oh. Hello!"
    prompt = api.engine.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.continue_final_message
    assert not prompt.add_generation_prompt


def test_a_result_without_the_id_of_its_call_is_told_where_it_is(api: Api) -> None:
    error = error_of(api.chat(messages=[USER, {"role": "tool", "content": "x"}]))
    assert error["param"] == "messages[1].tool_call_id"
    assert "is required: the `id` of the call" in error["message"]


def test_log_probabilities_of_the_prompt_come_by_token_ids() -> None:
    answer = Api().chat(prompt_logprobs=1).json()
    ChatCompletion.model_validate(answer, strict=True)
    first, second, third = answer["prompt_logprobs"]
    assert first is None
    assert second["72"] == {"logprob": -0.25, "decoded_token": "H"}
    assert len(third) == 2


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        (
            [USER, {"role": "tool", "tool_call_id": "no", "content": "x"}],
            "messages[1].tool_call_id",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [CALL]}, USER],
            "messages[1].tool_calls[0]",
        ),
        (
            [
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {**CALL, "function": {"name": "look", "arguments": "{"}}
                    ],
                },
            ],
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_calls_and_results_must_match(api: Api, messages: Any, path: str) -> None:
    response = api.chat(messages=messages, add_generation_prompt=True)
    assert error_of(response)["param"] == path


def test_an_echo_needs_a_message_to_repeat(api: Api) -> None:
    error = error_of(api.chat(echo=True))
    assert error["param"] == "echo"
    assert "the last message is not the assistant's" in error["message"]


def test_messages_in_a_file_are_those_of_a_body(api: Api) -> None:
    """``generate --messages`` and ``LLM`` read what the server reads."""
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "boss"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "audio": None},
        {"role": "tool", "tool_call_id": CALL["id"], "content": "x", "name": "look"},
        {"role": "assistant", "content": "Oh", "refusal": None, "annotations": []},
        USER,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {**USER, "content": [{"type": "text", "text": "Why?"}]},
    ]
    api.chat(messages=messages)
    prompt = api.engine.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    read = read_messages(read_conversation(messages).messages)
    assert read_messages(prompt.messages) == read


def test_it_must_be_clear_where_an_answer_begins(api: Api) -> None:
    messages = [USER, {"role": "assistant", "content": "Oh"}]
    assert error_of(api.chat(messages=messages))["param"] == "messages[1]"
    for options in ({"continue_final_message": True}, {"add_generation_prompt": True}):
        assert api.chat(messages=messages, **options).status_code == 200


def test_a_model_that_judges_messages_takes_the_assistants_as_the_last() -> None:
    judge = replace(Api().capabilities, continues_messages=False)
    api = Api(capabilities=judge)
    messages = [USER, {"role": "assistant", "content": "Oh"}]
    assert api.chat(messages=messages).status_code == 200


def test_the_sagemaker_path_answers_alike(api: Api) -> None:
    body = {"messages": [USER]}
    (choice,) = api.post("/invocations", body).json()["choices"]
    assert choice["message"]["content"] == "Hello!"
