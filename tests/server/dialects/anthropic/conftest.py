"""Anthropic's API over an engine that answers with given texts."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from mllama.requests.chat_prompt import ChatPrompt
from mllama.server.dialects.anthropic.answers import (
    Message,
    MessageErrorAnswer,
    StreamEvent,
)
from tests.server.dialects.in_process import InProcessServer

USER = {"role": "user", "content": "Hi"}
TOOL = {"name": "look", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "it"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a wall"}


class Api(InProcessServer):
    """A server in this process."""

    def send(self, **fields: Any) -> httpx.Response:
        body = {"model": "served", "max_tokens": 100, "messages": [USER], **fields}
        return self.post("/v1/messages", body)

    def message(self, **fields: Any) -> Any:
        """A whole answer, which must have the schema's form."""
        response = self.send(**fields)
        assert response.status_code == 200, response.text
        answer = response.json()
        Message.model_validate(answer, strict=True)
        assert answer["stop_reason"] is not None
        return answer

    def events(self, **fields: Any) -> list[Any]:
        """The events of a stream, which must have the schema's form."""
        response = self.send(stream=True, **fields)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return events_of(response.text)

    def count(self, **fields: Any) -> httpx.Response:
        body = {"model": "served", "messages": [USER], **fields}
        return self.post("/v1/messages/count_tokens", body)

    def prompt(self, **fields: Any) -> ChatPrompt:
        """The prompt that the engine gets."""
        response = self.send(**fields)
        assert response.status_code == 200, response.text
        prompt = self.engine.requests[-1].prompt
        assert isinstance(prompt, ChatPrompt)
        return prompt


def events_of(text: str) -> list[Any]:
    """The events of a stream's text."""
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    events = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        StreamEvent.validate_python(event, strict=True)
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def gathered(events: list[Any]) -> Any:
    """The message that a stream adds up to, of which the order is checked."""
    first, *events = [event for event in events if event["type"] != "ping"]
    assert first["type"] == "message_start"
    message = first["message"]
    assert message["content"] == []
    assert message["stop_reason"] is None
    assert message["usage"]["output_tokens"] == 0
    last = events.pop()
    assert last["type"] == "message_stop"
    end = events.pop()
    assert end["type"] == "message_delta"
    is_open, parts = False, ""
    for event in events:
        is_start = event["type"] == "content_block_start"
        assert is_start != is_open
        assert event["index"] == len(message["content"]) - (not is_start)
        if is_start:
            is_open, parts = True, ""
            message["content"].append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            parts += delta["text" if delta["type"] == "text_delta" else "partial_json"]
        else:
            assert event["type"] == "content_block_stop"
            is_open = False
            block = message["content"][-1]
            if block["type"] == "text":
                assert block["text"] == ""
                block["text"] = parts
            else:
                assert block["input"] == {}
                block["input"] = parts
    assert not is_open
    return {**message, **end["delta"], "usage": end["usage"]}


def error_of(response: httpx.Response, status: int = 400) -> Any:
    """The error of a response, which must be in Anthropic's form."""
    assert response.status_code == status, response.text
    answer = response.json()
    MessageErrorAnswer.model_validate(answer, strict=True)
    assert answer["request_id"] == "id"
    assert response.headers["request-id"] == "id"
    return answer["error"]


def error_message(answer: Any) -> str:
    """The message of an error, which must have the schema's form."""
    return MessageErrorAnswer.model_validate(answer, strict=True).error.message


@pytest.fixture
def api() -> Api:
    return Api()
