"""Fields of a body: those that work, those without effect, and refusals by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mllama.requests.sampling_params import Sampling
from mllama.requests.tool_use import answer_format

from .conftest import TOOL, USER, Api, error_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search"}
PDF = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="},
}


def in_user(block: Any) -> Any:
    return {"messages": [{"role": "user", "content": [block]}]}


def in_assistant(block: Any) -> Any:
    return {"messages": [USER, {"role": "assistant", "content": [block]}, USER]}


def in_result(block: Any) -> Any:
    result = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
    return in_user(result)


def test_sampling_reaches_the_engine(api: Api) -> None:
    api.message(
        max_tokens=7,
        temperature=0.5,
        top_p=0.25,
        top_k=3,
        stop_sequences=["x", "", "y"],
    )
    api.message(top_k=0)
    first, second = [request.sampling for request in api.engine.requests]
    assert first == Sampling(
        max_new_tokens=7, temperature=0.5, top_p=0.25, top_k=3, stop=["x", "y"]
    )
    assert second == Sampling(max_new_tokens=100, top_k=-1)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            {"output_config": {"format": FORMAT, "effort": "high"}},
            "output_config.format",
        ),
        ({"output_format": FORMAT}, "output_format"),
    ],
)
def test_an_answer_can_have_a_format(api: Api, fields: Any, path: str) -> None:
    api.message(**fields)
    (request,) = api.engine.requests
    assert request.output_format is not None
    assert json.loads(request.output_format.source) == SCHEMA
    assert request.output_format.is_strict
    assert request.output_format.path == f"{path}.schema"
    # Beside tools it is the format of answers without calls.
    assert answer_format(replace(request, prompt=api.prompt(tools=[TOOL])))
    assert api.count(**fields).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None},
        {"model": "llama3.2-vision"},
        {"metadata": {"user_id": "somebody"}},
        {"service_tier": "auto"},
        {"service_tier": "standard_only"},
        {"speed": "standard"},
        {"cache_control": {"type": "ephemeral"}},
        {"diagnostics": {"previous_message_id": None}},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        {"thinking": {"type": "between_tools"}},
        {"output_config": {"effort": "high"}},
        {"context_management": {"edits": []}},
        {
            "context_management": {
                "edits": [{"type": "clear_thinking_20251015", "keep": "all"}]
            }
        },
        {"mcp_servers": []},
        {"fallbacks": []},
        {"container": None},
        {"tools": []},
    ],
)
def test_what_changes_nothing_is_accepted(api: Api, fields: Any) -> None:
    assert api.message(**fields)["content"][0]["text"] == "Hello!"
    (request,) = api.engine.requests
    assert request.sampling == Sampling(max_new_tokens=100)
    assert request.output_format is None


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"max_tokens": None}, "max_tokens", "required"),
        ({"max_tokens": -1}, "max_tokens", "at least 0"),
        ({"max_tokens": 1.0}, "max_tokens", "an integer"),
        ({"messages": []}, "messages", "empty"),
        ({"temperature": 2.5}, "temperature", "at most 2"),
        ({"top_p": 1.5}, "top_p", "at most 1"),
        ({"top_k": -2}, "top_k", "at least -1"),
        ({"stop_sequences": "x"}, "stop_sequences", "a list"),
        ({"stream": "true"}, "stream", "true or false"),
        ({"seed": 1}, "seed", "not a field"),
        ({"system": 5}, "system", "a string or a list of text blocks"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            "thinking.type",
            "doesn't reason",
        ),
        (
            {"output_config": {"effort": "max"}},
            "output_config.effort",
            "doesn't reason",
        ),
        (
            {"output_config": {"format": {"type": "text"}}},
            "output_config.format.type",
            "json_schema",
        ),
        (
            {"output_config": {"task_budget": {}}},
            "output_config.task_budget",
            "not a field",
        ),
        (
            {"output_format": FORMAT, "output_config": {"format": FORMAT}},
            "output_format",
            "combined",
        ),
        ({"container": "c"}, "container", "runs no code"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers", "runs no tools"),
        ({"inference_geo": "us"}, "inference_geo", "not supported"),
        ({"speed": "fast"}, "speed", "one speed"),
        ({"thread": {"type": "create"}}, "thread", "send all of them"),
        ({"compaction": {}}, "compaction", "not supported"),
        ({"fallbacks": [{"model": "x"}]}, "fallbacks", "one model"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management.edits[0].type",
            "leaves out no part",
        ),
        (in_user(PDF), "messages[0].content[0]", "its pages as images"),
        (in_result(PDF), "messages[0].content[0].content[0]", "its pages as images"),
        (in_user({"type": "search_result"}), "messages[0].content[0]", "text block"),
        (
            in_user({"type": "container_upload"}),
            "messages[0].content[0]",
            "runs no tools",
        ),
        (
            in_user({"type": "thinking", "thinking": "x"}),
            "messages[0].content[0]",
            "text, image or tool_result",
        ),
        (
            in_user({"type": "what"}),
            "messages[0].content[0]",
            "text, image or tool_result",
        ),
        (in_user("x"), "messages[0].content[0]", "text, image or tool_result"),
        (in_user({"type": "text"}), "messages[0].content[0].text", "required"),
        (
            in_user({"type": "text", "text": "x", "size": 1}),
            "messages[0].content[0].size",
            "not a field",
        ),
        (
            in_user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
            "messages[0].content[0].source",
            "keeps no files",
        ),
        (
            in_user({"type": "image", "source": {"type": "url"}}),
            "messages[0].content[0].source.url",
            "required",
        ),
        (
            in_user(
                {"type": "image", "source": {"type": "url", "url": "iVBORw0KGgo="}}
            ),
            "messages[0].content[0].source.url",
            "base64 needs a source of the type base64",
        ),
        (
            in_user({"type": "image", "source": {"type": "url", "url": "file:/a.png"}}),
            "messages[0].content[0].source.url",
            "must be a data:, http: or https: URL",
        ),
        (
            in_user(
                {
                    "type": "image",
                    "source": {"type": "url", "url": "x"},
                    "transformations": {"oversized_image": "error"},
                }
            ),
            "messages[0].content[0].transformations.oversized_image",
            "scaled down",
        ),
        (
            in_user({"type": "tool_result"}),
            "messages[0].content[0].tool_use_id",
            "required",
        ),
        (
            in_result({"type": "tool_reference", "tool_name": "x"}),
            "messages[0].content[0].content[0]",
            "searches no tools",
        ),
        (
            in_assistant({"type": "image", "source": {"type": "url", "url": "x"}}),
            "messages[1].content[0]",
            "text, tool_use",
        ),
        (
            in_assistant({"type": "server_tool_use", "id": "a"}),
            "messages[1].content[0]",
            "runs no tools",
        ),
        (
            in_assistant({"type": "web_search_tool_result"}),
            "messages[1].content[0]",
            "runs no tools",
        ),
        (
            in_assistant({"type": "tool_use", "id": "a", "name": "b", "input": "{}"}),
            "messages[1].content[0].input",
            "an object",
        ),
        (
            in_assistant(
                {
                    "type": "tool_use",
                    "id": "a",
                    "name": "b",
                    "input": {},
                    "caller": {"type": "code_execution_20250825"},
                }
            ),
            "messages[1].content[0].caller",
            "only the model",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0]",
            "user, assistant or system",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"tools": [WEB_SEARCH]}, "tools[0]", "web_search_20250305"),
        (
            {"tools": [TOOL, {"type": "bash_20250124", "name": "bash"}]},
            "tools[1]",
            "`input_schema`",
        ),
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema", "required"),
        ({"tools": [{**TOOL, "name": "a b"}]}, "tools[0].name", "match"),
        (
            {"tools": [{**TOOL, "defer_loading": True}]},
            "tools[0].defer_loading",
            "searches no tools",
        ),
        (
            {"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]},
            "tools[0].allowed_callers",
            "only the model",
        ),
        (
            {"tools": [TOOL], "tool_choice": "auto"},
            "tool_choice",
            "auto, any, tool or none",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool"}},
            "tool_choice.name",
            "required",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "none", "disable_parallel_tool_use": True},
            },
            "tool_choice.disable_parallel_tool_use",
            "not a field",
        ),
    ],
)
def test_what_cannot_be_honored_is_named(
    api: Api, fields: Any, path: str, words: str
) -> None:
    error = error_of(api.send(**fields))
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"`{path}` ")
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert not api.engine.requests


def test_a_refused_thread_tells_the_sdk_to_go_on_without(api: Api) -> None:
    error = error_of(api.send(thread={"type": "create"}))
    assert error["details"] == {"error_code": "thread_unsupported_request"}
    assert "details" not in error_of(api.send(container="c"))


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"tools": [TOOL, TOOL]}, "tools[1].name is that of another tool"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "go"}},
            "tool_choice.name must be the name of one of the request's tools",
        ),
        ({"tool_choice": {"type": "any"}}, "tool_choice asks for calls"),
    ],
)
def test_a_choice_among_tools_must_fit_them(api: Api, fields: Any, start: str) -> None:
    for response in (api.send(**fields), api.count(**fields)):
        assert error_of(response)["message"].startswith(start)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"max_tokens": NaN}'])
def test_a_body_is_an_object(api: Api, body: bytes) -> None:
    error_of(api.post("/v1/messages", body))


@pytest.mark.parametrize("name", ["max_tokens", "stream", "temperature"])
def test_counting_takes_no_fields_of_an_answer(api: Api, name: str) -> None:
    error = error_of(api.count(**{name: 1}))
    assert error["message"].startswith(f"`{name}` ")


def test_headers_of_clients_pass(api: Api) -> None:
    headers = {
        "x-api-key": "none",
        "authorization": "Bearer none",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "context-management-2025-06-27",
    }
    body = {"model": "served", "max_tokens": 5, "messages": [USER]}
    response = api.request("POST", "/v1/messages?beta=true", json=body, headers=headers)
    assert response.status_code == 200


def test_what_claude_code_sends_is_answered(api: Api) -> None:
    """The fields of version 2.1.197."""
    cached = {"cache_control": {"type": "ephemeral"}}
    prompt = api.prompt(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder/>"},
                    {"type": "text", "text": "Say hi", **cached},
                ],
            },
            {"role": "system", "content": "There are skills."},
        ],
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1;"},
            {"type": "text", "text": "You are an agent.", **cached},
            {"type": "text", "text": "\nBe careful.", **cached},
        ],
        tools=[{**TOOL, "description": "Looks."}],
        metadata={"user_id": '{"device_id":"x"}'},
        max_tokens=32000,
        thinking={"type": "adaptive"},
        context_management={
            "edits": [{"type": "clear_thinking_20251015", "keep": "all"}]
        },
        output_config={"effort": "high"},
        stream=True,
    )
    assert prompt.messages == [
        {"role": "system", "content": "You are an agent.\nBe careful."},
        {"role": "user", "content": "<system-reminder/>Say hi"},
        {"role": "system", "content": "There are skills."},
    ]


@pytest.mark.parametrize("name", ["claude-sonnet-4-5", "gpt-4o"])
def test_another_models_name_is_refused(api: Api, name: str) -> None:
    for response in (api.send(model=name), api.count(model=name)):
        error = error_of(response, 404)
        assert error["type"] == "not_found_error"
        assert name in error["message"]
        assert "'served'" in error["message"]
