"""Every list of a request has a length, and so have texts that each token meets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.dialects.in_process import InProcessServer

USER = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "f", "parameters": {}}

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
OLLAMA, TOKENIZE = "/api/chat", "/tokenize"


@pytest.fixture(scope="module")
def server() -> InProcessServer:
    return InProcessServer()


@pytest.mark.parametrize(
    ("path", "body", "field", "most"),
    [
        (CHAT, {"messages": [USER] * 4097}, "messages", 4096),
        (
            CHAT,
            {"messages": [{**USER, "content": [{"type": "text", "text": ""}] * 4097}]},
            "messages[0].content",
            4096,
        ),
        (
            CHAT,
            {
                "messages": [USER],
                "tools": [{"type": "function", "function": FUNCTION}] * 513,
            },
            "tools",
            512,
        ),
        (CHAT, {"messages": [USER], "stop": ["a"] * 65}, "stop", 64),
        (CHAT, {"messages": [USER], "stop": "a" * 1001}, "stop", 1000),
        (CHAT, {"messages": [USER], "stop": ["a" * 1001]}, "stop[0]", 1000),
        (CHAT, {"messages": [USER], "guided_choice": ["a"] * 4097}, "", 4096),
        (
            COMPLETION,
            {"prompt": "a", "stop_token_ids": [1] * 1025},
            "stop_token_ids",
            1024,
        ),
        (
            COMPLETION,
            {"prompt": "a", "logit_bias": dict.fromkeys(map(str, range(16385)), 1)},
            "logit_bias",
            16384,
        ),
        (COMPLETION, {"prompt": ["a"] * 2049}, "prompt", 2048),
        (COMPLETION, {"prompt": [1] * (2**18 + 1)}, "prompt", 2**18),
        (TOKENIZE, {"messages": [USER] * 4097}, "messages", 4096),
        (RESPONSES, {"input": [USER] * 4097}, "input", 4096),
        (MESSAGES, {"max_tokens": 1, "messages": [USER] * 4097}, "messages", 4096),
        (
            MESSAGES,
            {"max_tokens": 1, "messages": [USER], "stop_sequences": ["a"] * 65},
            "stop_sequences",
            64,
        ),
        (OLLAMA, {"messages": [USER] * 4097}, "messages", 4096),
        (
            OLLAMA,
            {"messages": [USER], "options": {"stop": ["a"] * 65}},
            "options.stop",
            64,
        ),
    ],
)
def test_lists_and_texts_have_a_length(
    server: InProcessServer, path: str, body: Any, field: str, most: int
) -> None:
    response = server.post(path, {"model": "served", **body})
    assert response.status_code == 400
    message = json.dumps(response.json())
    assert field in message
    assert f"at most {most} " in message
    # What is too long isn't repeated.
    assert len(message) < 400
