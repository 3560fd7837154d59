"""Anthropic's API on the demo model."""

from __future__ import annotations

import json
from typing import Any

import httpx

from mllama.server.dialects.anthropic.answers import Message, TokenCount
from tests.server.dialects.anthropic.conftest import error_message, events_of, gathered

from .conftest import Server
from .test_openai_fields import ANSWER, picture

QUESTION: Any = {"type": "text", "text": "What is in this picture?"}
SHAPES: Any = {
    "name": "count_shapes",
    "input_schema": {
        "type": "object",
        "properties": {
            "color": {"enum": ["red", "blue"]},
            "also_hidden": {"type": "boolean"},
        },
        "required": ["color", "also_hidden"],
    },
}


def image() -> Any:
    header, _, data = picture().partition(",")
    media_type = header.removeprefix("data:").removesuffix(";base64")
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "image", "source": source}


def send(server: Server, path: str = "", **fields: Any) -> httpx.Response:
    turns = [{"role": "user", "content": [image(), QUESTION]}]
    body = {"model": "mllama-demo", "messages": turns, **fields}
    return httpx.post(f"{server.url}/v1/messages{path}", json=body, timeout=600)


def ask(server: Server, **fields: Any) -> Any:
    response = send(server, **{"max_tokens": 50, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["request-id"]
    answer = response.json()
    Message.model_validate(answer, strict=True)
    return answer


def text_of(answer: Any) -> str:
    (block,) = answer["content"]
    text: str = block["text"]
    return text


def prompt_tokens(usage: Any) -> int:
    read: int = usage["cache_read_input_tokens"]
    total: int = usage["input_tokens"] + read
    return total


def test_an_image_is_seen(server: Server) -> None:
    answer = ask(server)
    assert text_of(answer) == ANSWER
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)


def test_a_stream_adds_up_to_the_whole_answer(server: Server) -> None:
    whole = ask(server)
    response = send(server, max_tokens=50, stream=True)
    streamed = gathered(events_of(response.text))
    assert text_of(streamed) == ANSWER
    assert streamed["stop_reason"] == "end_turn"
    assert streamed["usage"] == whole["usage"]


def test_a_stop_sequence_ends_an_answer(server: Server) -> None:
    answer = ask(server, stop_sequences=["never", " left"])
    assert text_of(answer) == "A red circle"
    assert (answer["stop_reason"], answer["stop_sequence"]) == (
        "stop_sequence",
        " left",
    )


def test_a_limit_ends_an_answer(server: Server) -> None:
    answer = ask(server, max_tokens=3)
    assert answer["stop_reason"] == "max_tokens"
    assert answer["usage"]["output_tokens"] == 3
    nothing = ask(server, max_tokens=0)
    assert (nothing["content"], nothing["stop_reason"]) == ([], "max_tokens")


def test_an_answer_goes_on_with_the_last_turn(server: Server) -> None:
    question = {"role": "user", "content": [image(), QUESTION]}
    for beginning in ("A red circle", ""):
        turn = {"role": "assistant", "content": beginning}
        answer = ask(server, messages=[question, turn])
        assert beginning + text_of(answer) == ANSWER


def test_a_forced_call_fits_its_schema_and_its_result_is_seen(server: Server) -> None:
    question: Any = {"role": "user", "content": "What is there?"}
    choice = {"type": "tool", "name": "count_shapes", "disable_parallel_tool_use": True}
    fields = {"messages": [question], "tools": [SHAPES], "tool_choice": choice}
    answer = ask(server, max_tokens=200, **fields)
    assert answer["stop_reason"] == "tool_use"
    (call,) = answer["content"]
    assert call["name"] == "count_shapes"
    assert sorted(call["input"]) == ["also_hidden", "color"]
    response = send(server, max_tokens=200, stream=True, **fields)
    (streamed,) = gathered(events_of(response.text))["content"]
    assert json.loads(streamed["input"]) == call["input"]
    result = {
        "type": "tool_result",
        "tool_use_id": call["id"],
        "content": [{"type": "text", "text": "done"}, image()],
    }
    turns = [
        question,
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": [result, QUESTION]},
    ]
    assert text_of(ask(server, messages=turns)) == ANSWER


def test_an_answer_fits_a_format(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}, "is_round": {"const": True}},
        "required": ["color", "is_round"],
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    answer = ask(server, output_config=config)
    assert json.loads(text_of(answer))["color"] in ("red", "blue")
    assert answer["stop_reason"] == "end_turn"
    schema["not"] = {}
    error = send(server, max_tokens=5, output_config=config).json()
    assert error_message(error).startswith("output_config.format.schema.not ")
    tool = {**SHAPES, "input_schema": {"type": "object", "not": {}}, "strict": True}
    error = send(server, max_tokens=5, tools=[tool]).json()
    assert error_message(error).startswith("tools[0].input_schema.not ")


def test_counted_tokens_are_those_of_the_usage(server: Server) -> None:
    text = [{"role": "user", "content": "Hello"}]
    for fields in (
        {},
        {"system": "Be brief.", "tools": [SHAPES]},
        {"messages": text},
        {"messages": [*text, {"role": "assistant", "content": "Oh"}]},
    ):
        response = send(server, "/count_tokens", **fields)
        count = TokenCount.model_validate(response.json(), strict=True).input_tokens
        for _ in range(2):
            usage = ask(server, max_tokens=1, **fields)["usage"]
            assert prompt_tokens(usage) == count
    assert usage["input_tokens"] >= 1


def test_an_error_has_the_request_and_the_way_out(server: Server) -> None:
    response = send(server, max_tokens=5, model="claude-sonnet-4-5")
    assert response.status_code == 404
    assert response.json()["request_id"] == response.headers["request-id"]
    assert "mllama-demo" in error_message(response.json())
    response = send(server, max_tokens=5, stop_sequences=["."], tools=[SHAPES],
                    tool_choice={"type": "any"})  # fmt: skip
    assert response.status_code == 400
    assert error_message(response.json()).startswith("stop_sequences can't be combined")
