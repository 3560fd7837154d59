"""Whole responses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mllama.errors import EngineError, EngineOverloadedError, RequestError
from tests.server.dialects.fake_engine import FakeEngine
from tests.server.dialects.openai.conftest import error_of

from .conftest import CALL, TOOL, Responses, texts

LOGPROBS = {"include": ["message.output_text.logprobs"]}


def test_an_answer_is_a_message(api: Responses) -> None:
    response = api.answer()
    (item,) = response["output"]
    assert item["id"].startswith("msg_")
    assert (item["type"], item["role"], item["status"]) == (
        "message",
        "assistant",
        "completed",
    )
    assert item["content"] == [
        {"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}
    ]
    assert response["id"].startswith("resp_")
    assert response["object"] == "response"
    assert response["status"] == "completed"
    assert response["model"] == "served"
    assert response["error"] is None
    assert response["incomplete_details"] is None
    assert response["completed_at"] >= response["created_at"]
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "image_tokens": 0,
        },
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }


def test_cached_tokens_are_a_part_of_the_input(api: Responses) -> None:
    api.engine.cached_tokens = 2
    details = api.answer()["usage"]["input_tokens_details"]
    assert details["cached_tokens"] == 2


def test_a_response_repeats_its_request(api: Responses) -> None:
    repeated: dict[str, Any] = {
        "instructions": "Be brief.",
        "max_output_tokens": 50,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "key",
        "safety_identifier": "someone",
        "temperature": 0.5,
        "text": {
            "format": {
                "type": "json_schema",
                "name": "n",
                "schema": {"type": "object"},
                "strict": True,
            },
            "verbosity": "medium",
        },
        "tool_choice": {"type": "function", "name": "look"},
        "tools": [{**TOOL, "strict": True, "description": "Looks."}],
        "top_p": 0.9,
        "user": "me",
    }
    response = api.answer(**repeated)
    assert {name: response[name] for name in repeated} == repeated
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "look"}],
    }
    response = api.answer(tools=[TOOL], tool_choice=allowed)
    assert response["tool_choice"] == allowed
    assert response["tools"] == [{**TOOL, "strict": None}]


@pytest.mark.parametrize("store", [None, True, False])
def test_nothing_is_stored_whatever_is_asked(
    api: Responses, store: bool | None
) -> None:
    response = api.answer(store=store)
    assert response["store"] is False
    assert response["previous_response_id"] is None
    path = f"/v1/responses/{response['id']}"
    assert error_of(api.request("GET", path), 404)["type"] == "invalid_request_error"


def test_a_limit_leaves_a_response_incomplete(api: Responses) -> None:
    response = api.answer(max_output_tokens=2)
    assert texts(response) == ["He"]
    assert response["output"][0]["status"] == "incomplete"
    assert response["status"] == "incomplete"
    assert response["completed_at"] is None
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 2


def test_a_request_without_a_limit_gets_the_servers(api: Responses) -> None:
    api.answer()
    assert api.engine.requests[0].sampling.max_new_tokens == -1


def test_an_empty_answer_is_an_empty_message() -> None:
    assert texts(Responses(FakeEngine("")).answer()) == [""]


@pytest.mark.parametrize("top", [None, 0, 2, 20])
def test_log_probabilities_come_where_they_are_included(top: int | None) -> None:
    response = Responses(FakeEngine("H😀")).answer(**LOGPROBS, top_logprobs=top)
    (part,) = response["output"][0]["content"]
    entries = part["logprobs"]
    assert response["top_logprobs"] == (top or 0)
    assert [entry["bytes"] for entry in entries] == [[72], [240], [159], [152], [128]]
    assert {len(entry["top_logprobs"]) for entry in entries} == {top or 0}
    assert all(entry["logprob"] == -0.25 for entry in entries)


def test_calls_of_functions_are_items() -> None:
    response = Responses(FakeEngine(f"{CALL}; {CALL}")).answer(tools=[TOOL])
    first, second = response["output"]
    for item in (first, second):
        assert item["id"].startswith("fc_")
        assert (item["type"], item["status"]) == ("function_call", "completed")
        assert (item["name"], item["arguments"]) == ("look", '{"at": "it"}')
    assert first["call_id"].startswith("call_")
    assert first["call_id"] != second["call_id"]
    assert response["status"] == "completed"


def test_only_one_call_is_returned_where_several_are_not_wanted() -> None:
    api = Responses(FakeEngine(f"{CALL}; {CALL}"))
    response = api.answer(tools=[TOOL], parallel_tool_calls=False)
    assert len(response["output"]) == 1
    assert response["parallel_tool_calls"] is False


def test_text_after_calls_is_a_message_after_them() -> None:
    response = Responses(FakeEngine(f"{CALL} Done.")).answer(tools=[TOOL], **LOGPROBS)
    call, message = response["output"]
    assert (call["type"], message["type"]) == ("function_call", "message")
    assert texts(response) == [" Done."]
    tokens = [entry["token"] for entry in message["content"][0]["logprobs"]]
    assert "".join(tokens) == " Done."


def test_a_limit_leaves_a_call_incomplete() -> None:
    api = Responses(FakeEngine(f"{CALL}; {CALL}"))
    response = api.answer(tools=[TOOL], max_output_tokens=len(CALL) + 42)
    first, second = response["output"]
    assert (first["status"], second["status"]) == ("completed", "incomplete")
    assert '{"at": "it"}'.startswith(second["arguments"])
    assert response["status"] == "incomplete"


def test_what_turns_out_to_be_no_call_is_text_with_its_log_probabilities() -> None:
    text = '{"name": "look", "parameters": {"at": oops'
    response = Responses(FakeEngine(text)).answer(tools=[TOOL], **LOGPROBS)
    assert texts(response) == [text]
    (item,) = response["output"]
    tokens = [entry["token"] for entry in item["content"][0]["logprobs"]]
    assert "".join(tokens) == text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestError("too long", "max_new_tokens"), 400, "invalid_request_error"),
        (EngineOverloadedError("full"), 429, "rate_limit_error"),
        (EngineError("dead"), 500, "server_error"),
    ],
)
def test_an_error_before_the_answer_is_a_status(
    api: Responses, stream: bool, error: Exception, status: int, kind: str
) -> None:
    api.engine.error = error
    response = api.respond(stream=stream)
    assert error_of(response, status)["type"] == kind
    if status == 400:
        assert error_of(response)["param"] == "max_output_tokens"
    assert api.engine.running == 0


def test_errors_have_the_paths_of_this_apis_bodies(api: Responses) -> None:
    api.engine.error = RequestError(
        "tools[0].function.parameters.properties.a.not is not supported",
        "tools[0].function.parameters.properties.a.not",
    )
    error = error_of(api.respond(tools=[TOOL]))
    assert error["param"] == "tools[0].parameters.properties.a.not"
    assert error["message"].startswith("tools[0].parameters.properties")
    api.engine.error = RequestError("the template rejects it", "messages")
    assert error_of(api.respond())["param"] == "input"


def test_the_schema_has_the_body_and_the_answer(api: Responses) -> None:
    schema = api.request("GET", "/openapi.json").json()
    route = schema["paths"]["/v1/responses"]["post"]
    content = route["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/ResponsesBody"}
    answer = route["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/ResponseObject"}
    assert "function_call_output" in json.dumps(schema)
