"""Requests as users of the API send them, recorded from the clients themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.dialects.fake_engine import FakeEngine

from .conftest import Responses, events_of

PICTURE = "data:image/png;base64,cGljdHVyZQ=="
USERS = {
    "OpenAI Agents SDK": {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
            {"type": "input_text", "text": "What?"},
        ],
    },
    "Pydantic AI": {
        "role": "user",
        "content": [
            {"text": "What?", "type": "input_text"},
            {"image_url": PICTURE, "type": "input_image", "detail": "auto"},
        ],
    },
}
PARAMETERS = {
    "properties": {"color": {"title": "Color", "type": "string"}},
    "required": ["color"],
    "title": "count_shapes_args",
    "type": "object",
    "additionalProperties": False,
}
TOOL = {
    "name": "count_shapes",
    "parameters": PARAMETERS,
    "strict": True,
    "type": "function",
    "description": "Counts.",
}
CHOICE = {"type": "function", "name": "count_shapes"}
FINAL = {**TOOL, "name": "final_result", "description": "The final response"}
SHAPE = {
    "properties": {"kind": {"title": "Kind", "type": "string"}},
    "required": ["kind"],
    "title": "Shape",
    "type": "object",
    "additionalProperties": False,
}
FORMAT = {
    "format": {
        "type": "json_schema",
        "name": "final_output",
        "schema": SHAPE,
        "strict": True,
    }
}
AGENTS_TURN = [
    {
        "arguments": '{"color": "red"}',
        "call_id": "call_1",
        "name": "count_shapes",
        "type": "function_call",
        "id": "fc_1",
        "status": "completed",
    },
    {"call_id": "call_1", "output": "1", "type": "function_call_output"},
    {
        "id": "msg_1",
        "content": [
            {
                "annotations": [],
                "text": '{"kind":"circle"}',
                "type": "output_text",
                "logprobs": [],
            }
        ],
        "role": "assistant",
        "status": "completed",
        "type": "message",
    },
    {"role": "user", "content": "And?"},
]
PYDANTIC_TURN = [
    {
        "name": "count_shapes",
        "arguments": '{"color":"red"}',
        "call_id": "call_1",
        "type": "function_call",
    },
    {"type": "function_call_output", "call_id": "call_1", "output": "1"},
    {"role": "assistant", "content": '{"kind":"circle"}'},
    {"role": "user", "content": "And?"},
]
BODIES: list[Any] = [
    # openai-agents 0.24.0
    *[
        {
            "include": [],
            "input": [USERS["OpenAI Agents SDK"], *turn],
            "instructions": "Be brief.",
            **more,
        }
        for turn in ([], AGENTS_TURN[:2], AGENTS_TURN)
        for more in (
            {"tools": []},
            {"tools": [TOOL]},
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "name": TOOL["name"]},
            },
            {"tools": [], "text": FORMAT},
            {
                "include": ["message.output_text.logprobs"],
                "max_output_tokens": 9,
                "metadata": {"a": "b"},
                "store": False,
                "temperature": 0.5,
                "text": {"verbosity": "medium"},
                "tools": [],
                "top_logprobs": 2,
                "truncation": "disabled",
            },
        )
    ],
    # pydantic-ai 2.68.0
    *[
        {"input": [USERS["Pydantic AI"], *turn], "instructions": "Be brief.", **more}
        for turn in ([], PYDANTIC_TURN[:2], PYDANTIC_TURN)
        for more in (
            {},
            {"tool_choice": "auto", "tools": [TOOL]},
            {"tool_choice": "required", "tools": [TOOL, FINAL]},
            {"tool_choice": "auto", "tools": [TOOL], "text": FORMAT},
            {
                "input": [
                    {"role": "system", "content": "Respond with JSON."},
                    USERS["Pydantic AI"],
                    *turn,
                ],
                "instructions": None,
                "text": {"format": {"type": "json_object"}},
            },
        )
    ],
]
NAMES = [
    (name, kind, turns)
    for name in ("agents", "pydantic")
    for turns in ("question", "result", "turn")
    for kind in range(5)
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body", BODIES, ids=["-".join(map(str, name)) for name in NAMES]
)
def test_a_clients_request_is_answered(body: Any, stream: bool) -> None:
    api = Responses(FakeEngine('{"kind": "star"}'))
    if stream:
        events_of(api.respond(**body, stream=True))
    else:
        api.answer(**body, stream=False)
    (request,) = api.engine.requests
    assert request.images == [b"picture"]
    messages = [each for each in api.prompt().messages if each["role"] != "system"]
    items = [each for each in body["input"] if each.get("role") != "system"]
    assert len(messages) == len(items)
    for message, item in zip(messages, items, strict=True):
        if item.get("type") == "function_call":
            (called,) = message["tool_calls"]
            assert called["function"]["arguments"] == json.loads(item["arguments"])
