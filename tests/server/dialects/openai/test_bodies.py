"""Every field works, keeps books, or is refused by its path."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mllama.requests.chat_prompt import ChatPrompt
from mllama.server.bodies.parsing import parse_body
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.bodies.schema import Body, Refused
from mllama.server.dialects.openai.chat_body import ChatBody
from mllama.server.dialects.openai.routes import BODIES
from tests.server.dialects.fake_engine import VOCABULARY

from .conftest import USER, Api, error_of

BOTH = ("/v1/chat/completions", "/v1/completions")

TOOL = {"type": "function", "function": {"name": "f"}}


def post(api: Api, path: str, **fields: Any) -> Any:
    given = {"prompt": "Hi"} if path == "/v1/completions" else {"messages": [USER]}
    return api.post(path, {**given, **fields})


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    ("field", "value", "setting", "expected"),
    [
        ("temperature", 0.5, "temperature", 0.5),
        ("temperature", 1, "temperature", 1.0),
        ("top_p", 0.9, "top_p", 0.9),
        ("top_k", 5, "top_k", 5),
        ("top_k", 0, "top_k", -1),
        ("top_k", -1, "top_k", -1),
        ("min_p", 0.1, "min_p", 0.1),
        ("seed", 7, "seed", 7),
        ("seed", 0, "seed", 0),
        ("seed", -1, "seed", 2**63 - 1),
        ("frequency_penalty", -2, "frequency_penalty", -2.0),
        ("presence_penalty", 1.5, "presence_penalty", 1.5),
        ("repetition_penalty", 1.1, "repetition_penalty", 1.1),
        ("repeat_penalty", 1.1, "repetition_penalty", 1.1),
        ("min_tokens", 3, "min_tokens", 3),
        ("stop", "end", "stop", ("end",)),
        ("stop", ["a", "", "b"], "stop", ("a", "b")),
        ("stop", "", "stop", ()),
        ("stop", [""], "stop", ()),
        ("stop", [], "stop", ()),
        ("stop_token_ids", [3, 4], "stop_token_ids", (3, 4)),
        ("ignore_eos", True, "ignore_eos", True),
        ("logit_bias", {"5": -100, "6": 0.5}, "logit_bias", {5: -100.0, 6: 0.5}),
        ("prompt_logprobs", 2, "prompt_logprobs", 2),
    ],
)
def test_a_sampling_field_reaches_the_engine(
    api: Api, path: str, field: str, value: Any, setting: str, expected: Any
) -> None:
    assert post(api, path, **{field: value}).status_code == 200
    assert getattr(api.engine.requests[0].sampling, setting) == expected


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        # A string or a float is no integer, and true is no number.
        *[
            (name, value, name)
            for name in ("n", "max_tokens", "top_k", "seed", "min_tokens")
            for value in ("5", 5.0, True, [5], 1e30)
        ],
        ("temperature", "1", "temperature"),
        ("temperature", True, "temperature"),
        ("stream", "true", "stream"),
        ("stream", 1, "stream"),
        # Ranges.
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("temperature", 2.1, "temperature"),
        ("temperature", -0.1, "temperature"),
        ("top_p", 1.1, "top_p"),
        ("top_k", -2, "top_k"),
        ("top_k", 10**9 * 10**9, "top_k"),
        ("min_p", -1, "min_p"),
        ("seed", 2**63, "seed"),
        ("seed", -(2**63) - 1, "seed"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", 10**399, "max_tokens"),
        ("temperature", 10**399, "temperature"),
        ("frequency_penalty", 2.5, "frequency_penalty"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("prompt_logprobs", 21, "prompt_logprobs"),
        # Tokens.
        ("stop_token_ids", [2**70], "stop_token_ids[0]"),
        ("stop_token_ids", [1, VOCABULARY], "stop_token_ids[1]"),
        ("stop_token_ids", ["1"], "stop_token_ids[0]"),
        ("logit_bias", {"x": 1}, "logit_bias"),
        ("logit_bias", {str(VOCABULARY): 1}, "logit_bias"),
        ("logit_bias", {"9" * 5000: 1}, "logit_bias"),
        ("logit_bias", {"-1": 1}, "logit_bias"),
        ("logit_bias", {"5": 1, "05": 2}, "logit_bias"),
        ("logit_bias", {"5": 101}, "logit_bias.5"),
        ("logit_bias", {"5": "1"}, "logit_bias.5"),
        ("logit_bias", [1], "logit_bias"),
        ("stop", 5, "stop"),
        ("stop", ["a", 5], "stop[1]"),
        # What would change the answer.
        ("cache_salt", "x", "cache_salt"),
        ("priority", 1, "priority"),
        ("options", {"seed": 1}, "options"),
        ("tempreature", 1, "tempreature"),
        ("guided_json", 1, "guided_json"),
        ("guided_json", "{", "guided_json"),
        ("guided_regex", "", "guided_regex"),
        ("guided_choice", [], "guided_choice"),
        ("guided_choice", ["a", ""], "guided_choice[1]"),
        ("guided_grammar", "", "guided_grammar"),
        ("guided_whitespace_pattern", " *", "guided_whitespace_pattern"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_object", "a": 1}, "response_format.a"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "a"}},
            "response_format.json_schema.schema",
        ),
        ("structured_outputs", {}, "structured_outputs"),
        ("structured_outputs", {"regex": 1}, "structured_outputs.regex"),
        (
            "structured_outputs",
            {"structural_tag": 1},
            "structured_outputs.structural_tag",
        ),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("repeat_penalty", {"a": 1}, "repeat_penalty"),
    ],
)
def test_a_wrong_value_is_named(
    api: Api, path: str, field: str, value: Any, where: str
) -> None:
    error = error_of(post(api, path, **{field: value}))
    assert error["param"] == where
    assert where in error["message"]
    assert not api.engine.requests


@pytest.mark.parametrize("kind", ["xml", "grammar", 5])
def test_a_wrong_type_of_format_names_the_right_ones(api: Api, kind: Any) -> None:
    error = error_of(post(api, "/v1/chat/completions", response_format={"type": kind}))
    assert error["param"] == "response_format.type"
    for known in ("text", "json_object", "json_schema"):
        assert repr(known) in error["message"]


def test_a_limit_below_the_least_tokens_is_named_as_the_client_knows_it(
    api: Api,
) -> None:
    fields = {"min_tokens": 9, "max_tokens": 8}
    error = error_of(post(api, "/v1/chat/completions", **fields))
    assert error["message"] == (
        "min_tokens must be at most the answer's limit, 8, not 9"
    )


def test_unknown_keys_are_refused_at_every_level(api: Api) -> None:
    text = {"type": "text", "text": "Hi"}
    image = {"type": "image_url", "image_url": {"url": "http://pictures/one.png"}}
    for fields, where in (
        ({"messages": [{**USER, "colour": 1}]}, "messages[0].colour"),
        (
            {"messages": [{**USER, "content": [text, {**text, "x": 1}]}]},
            "messages[0].content[1].x",
        ),
        (
            {
                "messages": [
                    USER,
                    {
                        **USER,
                        "content": [
                            {**image, "image_url": {**image["image_url"], "size": 1}}  # type: ignore[dict-item]
                        ],
                    },
                ]
            },
            "messages[1].content[0].image_url.size",
        ),
        (
            {"messages": [{"role": "system", "content": "x", "images": ["AAAA"]}]},
            "messages[0].images",
        ),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": "x", "thinking": "y"},
                ]
            },
            "messages[1].thinking",
        ),
        ({"stream": True, "stream_options": {"every": 1}}, "stream_options.every"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]},
            "tools[0].function.x",
        ),
    ):
        error = error_of(post(api, "/v1/chat/completions", **fields))
        assert error["param"] == where
        assert error["code"] == "unknown_parameter"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].image_url",
        ),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"repeat_penalty": 1.2, "repetition_penalty": 1.1}, "repeat_penalty"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
        (
            {"chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}},
            "chat_template_kwargs.chat_template",
        ),
        (
            {"chat_template_kwargs": {"add_generation_prompt": False}},
            "chat_template_kwargs.add_generation_prompt",
        ),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        (
            {"tools": [{"type": "function", "function": {"name": "two words"}}]},
            "tools[0].function.name",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f", "x": 1}}},
            "tool_choice.function.x",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tool_choice.function.name",
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}},
            "tool_choice.allowed_tools.mode",
        ),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            "guided_regex",
        ),
        ({"response_format": {"type": "json_object"}, "stop": "a"}, "stop"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ],
)
def test_a_wrong_chat_is_named(api: Api, fields: Any, where: str) -> None:
    error = error_of(post(api, "/v1/chat/completions", **fields))
    assert error["param"] == where
    assert not api.engine.requests


def test_what_asks_for_nothing_passes(api: Api) -> None:
    fields: dict[str, Any] = {
        "n": 1,
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "reasoning_effort": "none",
        "verbosity": "medium",
        "functions": [],
        "function_call": "none",
        "logit_bias": {},
        "priority": 0,
        "tools": [],
        "user": "me",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "x",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "24h",
        "prediction": {"type": "content", "content": "x"},
        "keep_alive": "5m",
    }
    response = post(api, "/v1/chat/completions", **fields)
    assert response.status_code == 200, response.text


def test_null_means_not_given_in_every_field(api: Api) -> None:
    chat, completion = BODIES[:2]
    for model, path in ((chat, BOTH[0]), (completion, BOTH[1])):
        names = model.model_fields.keys() - {"messages", "prompt"}
        nulls = dict.fromkeys((*names, "some_later_field"))
        response = post(api, path, **nulls)
        assert response.status_code == 200, response.text
    message = {**USER, **dict.fromkeys(("name", "images", "tool_calls", "audio"))}
    assert post(api, BOTH[0], messages=[message]).status_code == 200


def refused_fields(model: type[Body]) -> list[tuple[str, Refused]]:
    return [
        (name, mark)
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Refused)
    ]


def test_each_refused_field_has_a_message_of_its_own(api: Api) -> None:
    chat, completion = BODIES[:2]
    for model, path in ((chat, BOTH[0]), (completion, BOTH[1])):
        found = refused_fields(model)
        assert found
        for name, mark in found:
            error = error_of(post(api, path, **{name: {"any": "thing"}}))
            assert error["param"] == name
            assert error["message"] == f"`{name}` {mark.text}."
            assert error["code"] == "unsupported_parameter"


def test_variables_of_the_template_and_tools_are_passed_on(api: Api) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "description": "d",
            "parameters": {"type": "object", "properties": {"a": {"default": None}}},
        },
    }
    post(
        api,
        BOTH[0],
        tools=[tool],
        chat_template_kwargs={"date_string": "1 May"},
        add_generation_prompt=False,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {**USER, "name": "Al"},
        ],
    )
    prompt = api.engine.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools == [tool]
    assert prompt.chat_template_kwargs == {"date_string": "1 May"}
    assert prompt.add_generation_prompt is False
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert prompt.messages[1]["name"] == "Al"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{nope",
        b"[1]",
        b'"text"',
        b"null",
        b"\xff\xfe{}",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "n": NaN}',
        b'{"n": 1' + b"0" * 5000 + b"}",
        b'{"metadata": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b"[" * 20_000,
        b'{"messages": [{"role": "user", "content": "x"}]} {}',
    ],
)
@pytest.mark.parametrize("path", [*BOTH, "/tokenize", "/detokenize"])
def test_what_is_not_a_json_object_is_refused(api: Api, path: str, body: bytes) -> None:
    assert error_of(api.post(path, body))["code"] == "invalid_json"


def test_a_body_that_is_nested_too_deeply_says_so(api: Api) -> None:
    def nested(levels: int) -> bytes:
        return b'{"metadata": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    error = error_of(api.post(BOTH[0], nested(300)))
    assert "in each other 200 levels deep" in error["message"]
    assert error_of(api.post(BOTH[0], nested(150)))["param"] is not None


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_infinite_numbers_are_refused(api: Api, number: str) -> None:
    body = json.dumps({"messages": [USER], "top_p": 5}).replace("5", number)
    assert error_of(api.post(BOTH[0], body.encode()))["param"] == "top_p"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{}] * 300_000},
        {"messages": [{"role": "user", "content": [{}] * 300_000}]},
        {"stop": [5] * 300_000},
        {"stop_token_ids": ["x"] * 300_000},
        {"tools": [5] * 300_000},
        {"logit_bias": {str(number): "x" for number in range(300_000)}},
        {str(number): 1 for number in range(300_000)},
    ],
)
def test_many_errors_cost_no_more_than_one(fields: Any) -> None:
    parsed = {"messages": [USER], **fields}
    started = time.process_time()
    with pytest.raises(RequestRejected):
        parse_body(ChatBody, parsed)
    assert time.process_time() - started < 0.5
