"""Ollama's API over an engine that answers with given texts."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.request import GenerationRequest
from mllama.server.dialects.ollama.answers import (
    OllamaChatAnswer,
    OllamaGenerateAnswer,
)
from tests.server.dialects.in_process import InProcessServer

USER = {"role": "user", "content": "Hi"}
ONE, TWO = "b25l", "dHdv"
"""Pictures in base64, which the engine takes for the bytes ``one`` and ``two``."""


class Api(InProcessServer):
    """A server in this process."""

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "served", "messages": [USER], "stream": False, **fields}
        return self.post("/api/chat", body)

    def generate(self, **fields: Any) -> httpx.Response:
        body = {"model": "served", "prompt": "Hi", "stream": False, **fields}
        return self.post("/api/generate", body)

    @property
    def last(self) -> GenerationRequest:
        """The last request that the engine got."""
        return self.engine.requests[-1]

    @property
    def prompt(self) -> ChatPrompt:
        """The prompt of the last request, which must be a chat's."""
        assert isinstance(self.last.prompt, ChatPrompt)
        return self.last.prompt


def answer_of(response: httpx.Response) -> Any:
    """A whole answer, which must have the schema's form and all that Ollama's has."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return checked_end(response.json())


def lines_of(response: httpx.Response) -> list[Any]:
    """The lines of a stream, which must be a whole one."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    lines = [json.loads(line) for line in response.text.splitlines()]
    for line in lines[:-1]:
        _form(line)
        assert line["done"] is False
        assert "done_reason" not in line
    return [*lines[:-1], checked_end(lines[-1])]


def checked_end(answer: Any) -> Any:
    """An answer with the fields of an end."""
    _form(answer)
    assert answer["done"] is True
    for name in ("total", "load", "prompt_eval", "eval"):
        assert answer[f"{name}_duration"] >= 0
    assert answer["total_duration"] >= answer["load_duration"] > 0
    assert answer["prompt_eval_count"] > 0
    assert answer["eval_count"] >= 0
    return answer


def _form(answer: Any) -> None:
    model = OllamaChatAnswer if "message" in answer else OllamaGenerateAnswer
    model.model_validate(answer, strict=True)


def error_of(response: httpx.Response, status: int = 400) -> str:
    """The message of an error, which must be in Ollama's form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert list(content) == ["error"]
    assert isinstance(content["error"], str)
    assert content["error"]
    return str(content["error"])


@pytest.fixture
def api() -> Api:
    return Api()
