"""The Responses API over an engine that answers with given texts."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from mllama.requests.chat_prompt import ChatPrompt
from mllama.server.dialects.openai.responses.answers import ResponseObject
from tests.server.dialects.in_process import InProcessServer

TOOL = {"type": "function", "name": "look", "parameters": {}}
CALL = '{"name": "look", "parameters": {"at": "it"}}'

_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Responses(InProcessServer):
    """A server in this process."""

    def respond(self, **fields: Any) -> httpx.Response:
        return self.post("/v1/responses", {"model": "served", "input": "Hi", **fields})

    def answer(self, **fields: Any) -> Any:
        """The response to a request, which must be a valid one."""
        response = self.respond(**fields)
        assert response.status_code == 200, response.text
        return checked(response.json())

    def prompt(self) -> ChatPrompt:
        """The prompt of the last request."""
        prompt = self.engine.requests[-1].prompt
        assert isinstance(prompt, ChatPrompt)
        return prompt

    def messages(self, *items: Any, **fields: Any) -> list[Any]:
        """The messages that items become."""
        self.answer(input=list(items), **fields)
        return list(self.prompt().messages)


def checked(response: Any) -> Any:
    """A response, which must be one for OpenAI's SDK and for the server's schema."""
    Response.model_validate(response, strict=True)
    ResponseObject.model_validate(response, strict=True)
    return response


def events_of(response: httpx.Response) -> list[Any]:
    """The events of a stream, each of which must be one for OpenAI's SDK."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, rest = response.text.split("\n\n")
    assert rest == ""
    events = []
    for number, part in enumerate(parts):
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert event["type"] == name.removeprefix("event: ")
        assert event["sequence_number"] == number
        assert _EVENTS.validate_python(event, strict=True).type == event["type"]
        if "response" in event:
            checked(event["response"])
        events.append(event)
    return events


def texts(response: Any) -> list[str]:
    """The texts of a response's messages."""
    return [
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    ]


@pytest.fixture
def api() -> Responses:
    return Responses()
