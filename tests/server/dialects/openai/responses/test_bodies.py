"""Every field works, keeps books, or is refused by its path."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from openai.types.responses import response_create_params

from mllama.server.bodies.parsing import parse_body
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.bodies.schema import Refused
from mllama.server.dialects.openai.responses.body import ResponsesBody
from tests.server.dialects.openai.conftest import error_of

from .conftest import TOOL, Responses
from .test_input import USER, image, said, user

SCHEMA = {"type": "object", "properties": {"a": {"type": ["integer", "null"]}}}


@pytest.mark.parametrize(
    ("field", "value", "setting", "expected"),
    [
        ("temperature", 0.5, "temperature", 0.5),
        ("top_p", 0.9, "top_p", 0.9),
        ("top_k", 0, "top_k", -1),
        ("min_p", 0.1, "min_p", 0.1),
        ("seed", 7, "seed", 7),
        ("max_output_tokens", 5, "max_new_tokens", 5),
        ("frequency_penalty", -2, "frequency_penalty", -2.0),
        ("repeat_penalty", 1.1, "repetition_penalty", 1.1),
        ("min_tokens", 3, "min_tokens", 3),
        ("stop", "end", "stop", ("end",)),
        ("stop_token_ids", [3], "stop_token_ids", (3,)),
        ("ignore_eos", True, "ignore_eos", True),
        ("logit_bias", {"5": -100}, "logit_bias", {5: -100.0}),
        ("include", ["message.output_text.logprobs"], "logprobs", 0),
        ("include", ["reasoning.encrypted_content"], "logprobs", None),
    ],
)
def test_a_sampling_field_reaches_the_engine(
    api: Responses, field: str, value: Any, setting: str, expected: Any
) -> None:
    api.answer(**{field: value})
    assert getattr(api.engine.requests[0].sampling, setting) == expected


@pytest.mark.parametrize(
    ("text", "kind", "is_strict", "path"),
    [
        ({"format": {"type": "json_object"}}, "json_object", False, "text.format"),
        *[
            (
                {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}
                if strict is None
                else {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": SCHEMA,
                        "strict": strict,
                    }
                },
                "json_schema",
                bool(strict),
                "text.format.schema",
            )
            for strict in (None, False, True)
        ],
    ],
)
def test_a_format_reaches_the_engine(
    api: Responses, text: Any, kind: str, is_strict: bool, path: str
) -> None:
    api.answer(text=text)
    found = api.engine.requests[0].output_format
    assert found is not None
    assert (found.kind, found.is_strict, found.path) == (kind, is_strict, path)
    if kind == "json_schema":
        assert json.loads(found.source) == SCHEMA


@pytest.mark.parametrize("text", [None, {}, {"format": {"type": "text"}}])
def test_text_is_no_format(api: Responses, text: Any) -> None:
    assert api.answer(text=text)["text"] == {"format": {"type": "text"}}
    assert api.engine.requests[0].output_format is None


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": USER}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"role": "boss", "content": "x"}]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0]"),
        ({"input": [{**USER, "color": 1}]}, "input[0].color"),
        ({"input": [user({"type": "text", "text": "x"})]}, "input[0].content[0]"),
        (
            {"input": [user({"type": "input_audio", "input_audio": {}})]},
            "input[0].content[0]",
        ),
        (
            {"input": [user({"type": "input_text", "text": "x", "size": 1})]},
            "input[0].content[0].size",
        ),
        (
            {"input": [user({"type": "input_image"})]},
            "input[0].content[0].image_url",
        ),
        (
            {"input": [user(image("x", detail="huge"))]},
            "input[0].content[0].detail",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "input_text"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"role": "system", "content": [image("x")]}]},
            "input[0].content[0]",
        ),
        ({"input": [said("x", status="done")]}, "input[0].status"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_usage": True}},
            "stream_options.include_usage",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"messages": [USER]}, "messages"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["message.output_text"]}, "include[0]"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "b" * 513}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"user": "a" * 513}, "user"),
        ({"safety_identifier": "a" * 513}, "safety_identifier"),
        ({"prompt_cache_key": "a" * 513}, "prompt_cache_key"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "two words"}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "function": {"name": "f"}}]}, "tools[0].function"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**TOOL, "async": True}]}, "tools[0].async"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}},
            "tool_choice.name",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "g"}],
                },
            },
            "tool_choice.tools[0].name",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object"}}, "stop": "a"}, "stop"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"min_tokens": 9, "max_output_tokens": 8}, "min_tokens"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids[0]"),
    ],
)
def test_a_wrong_value_is_named(api: Responses, fields: Any, where: str) -> None:
    error = error_of(api.respond(**fields))
    assert error["param"] == where
    assert where in error["message"]
    assert not api.engine.requests


@pytest.mark.parametrize(
    ("fields", "where", "way"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "`input`"),
        ({"conversation": "conv_1"}, "conversation", "`input`"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "`input`"),
        ({"background": True}, "background", "`stream`"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "send the text"),
        ({"truncation": "auto"}, "truncation", "leave out"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
        (
            {"tools": [TOOL, {"type": "file_search", "vector_store_ids": ["x"]}]},
            "tools[1].type",
            "'file_search'",
        ),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type", "'custom'"),
        (
            {"input": [USER, {"type": "item_reference", "id": "msg_1"}]},
            "input[1]",
            "send the item itself",
        ),
        ({"input": [USER, {"id": "msg_1"}]}, "input[1]", "send the item itself"),
        (
            {"input": [user({"type": "input_file", "file_id": "file_1"})]},
            "input[0].content[0]",
            "pictures of its pages",
        ),
        (
            {"input": [user({"type": "input_image", "file_id": "file_1"})]},
            "input[0].content[0].file_id",
            "`image_url`",
        ),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "a",
                        "output": [image("http://pictures/one.png")],
                    }
                ]
            },
            "input[0].output[0]",
            "a message of the user",
        ),
    ],
)
def test_what_the_server_has_not_is_refused_with_a_way_out(
    api: Responses, fields: Any, where: str, way: str
) -> None:
    error = error_of(api.respond(**fields))
    assert error["param"] == where
    assert error["code"] == "unsupported_parameter"
    assert way in error["message"]
    assert not api.engine.requests


def test_each_refused_field_has_a_message_of_its_own(api: Responses) -> None:
    found = [
        (name, mark)
        for name, field in ResponsesBody.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Refused)
    ]
    assert found
    for name, mark in found:
        error = error_of(api.respond(**{name: {"any": "thing"}}))
        assert error["param"] == name
        assert error["message"] == f"`{name}` {mark.text}."


def test_what_asks_for_nothing_passes(api: Responses) -> None:
    api.answer(
        background=False,
        context_management=[],
        image={"context_compression": "auto"},
        include=[],
        max_tool_calls=3,
        prompt_cache_options={"mode": "implicit"},
        prompt_cache_retention="24h",
        reasoning={"effort": "none", "summary": "auto", "generate_summary": "auto"},
        service_tier="auto",
        tools=[{**TOOL, "async": False, "allowed_callers": ["direct"]}],
        truncation="disabled",
    )


def test_every_field_of_openais_sdk_is_known() -> None:
    params = response_create_params.ResponseCreateParamsStreaming
    fields = {field.alias or name for name, field in ResponsesBody.model_fields.items()}
    assert params.__annotations__.keys() - fields == set()


def test_null_means_not_given_in_every_field(api: Responses) -> None:
    names = ResponsesBody.model_fields.keys() - {"input"}
    api.answer(**dict.fromkeys((*names, "some_later_field")))
    nulls = dict.fromkeys(("id", "status", "phase", "namespace"))
    api.answer(input=[{**said("x"), **nulls}, {**USER, **nulls}])


def test_another_models_name_is_refused(api: Responses) -> None:
    assert error_of(api.respond(model="gpt-4o"), 404)["code"] == "model_not_found"
    for name in ("served", "llama3.2-vision", None):
        assert api.answer(model=name)["model"] == "served"


@pytest.mark.parametrize("body", [b"", b"{nope", b"[1]", b'{"input": "\\ud800"}'])
def test_what_is_not_a_json_object_is_refused(api: Responses, body: bytes) -> None:
    error = error_of(api.post("/v1/responses", body))
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [{}] * 300_000},
        {"input": [{"role": "user", "content": [{}] * 300_000}]},
        {"tools": [5] * 300_000},
        {"include": ["x"] * 300_000},
    ],
)
def test_many_errors_cost_no_more_than_one(fields: Any) -> None:
    parsed = {"input": "Hi", **fields}
    started = time.process_time()
    with pytest.raises(RequestRejected):
        parse_body(ResponsesBody, parsed)
    assert time.process_time() - started < 0.5
