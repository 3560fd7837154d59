"""OpenAI's API over an engine that answers with given texts."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.server.dialects.in_process import InProcessServer

USER = {"role": "user", "content": "Hi"}


class Api(InProcessServer):
    """A server in this process."""

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "served", "messages": [USER], **fields}
        return self.post("/v1/chat/completions", body)

    def complete(self, **fields: Any) -> httpx.Response:
        body = {"model": "served", "prompt": "Hi", **fields}
        return self.post("/v1/completions", body)


def chunks_of(response: httpx.Response) -> list[Any]:
    """The chunks of a stream, which must be a whole one."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def error_of(response: httpx.Response, status: int = 400) -> Any:
    """The error of a response, which must be in OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["message"]
    return error


@pytest.fixture
def api() -> Api:
    return Api()
