"""Ollama's API on the demo model: what it sees, and requests of applications."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from tests.clients.programs import picture

from .conftest import Server

MODEL = "llama3.2-vision"
PNG = picture.base64_png()
SCHEMA = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["shape", "count"],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "HassTurnOn",
        "description": "Turns on a device",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
    },
}


def post(server: Server, path: str, body: Any) -> httpx.Response:
    # As Ollama's own examples with curl, which name no content type of JSON.
    headers = {"content-type": "application/x-www-form-urlencoded"}
    content = json.dumps({"model": MODEL, **body})
    return httpx.post(
        f"{server.url}/api/{path}", content=content, headers=headers, timeout=120
    )


def answered(server: Server, path: str, body: Any) -> Any:
    """The whole answer to a request, which must be the same as its stream's."""
    whole = post(server, path, {**body, "stream": False})
    assert whole.status_code == 200, whole.text
    streamed = post(server, path, body)
    assert streamed.headers["content-type"] == "application/x-ndjson"
    *pieces, end = map(json.loads, streamed.text.splitlines())
    answer = whole.json()
    assert _text(answer) == "".join(map(_text, pieces))
    for name in ("done", "done_reason", "eval_count", "prompt_eval_count"):
        assert end[name] == answer[name]
    return answer


def _text(answer: Any) -> str:
    return str(
        answer["message"]["content"] if "message" in answer else answer["response"]
    )


def test_a_picture_is_seen_in_chats_and_prompts(server: Server) -> None:
    message = {"role": "user", "content": picture.QUESTION, "images": [PNG]}
    greedy = {"options": {"temperature": 0}}
    chat = answered(server, "chat", {"messages": [message], **greedy})
    assert chat["message"]["content"] == picture.ANSWER
    # Ollama-OCR's request, and those of Frigate before 0.18.
    prompt = {"prompt": picture.QUESTION, "images": [PNG], **greedy}
    generated = answered(server, "generate", prompt)
    assert generated["response"] == picture.ANSWER
    assert generated["prompt_eval_count"] == chat["prompt_eval_count"]
    first = {"role": "assistant", "content": chat["message"]["content"]}
    second = {"role": "user", "content": picture.SECOND_QUESTION}
    history = [message, first, second]
    answer = answered(server, "chat", {"messages": history, **greedy})
    assert answer["message"]["content"] == picture.SECOND_ANSWER


def test_durations_add_up(server: Server) -> None:
    message = {"role": "user", "content": picture.QUESTION, "images": [PNG]}
    answer = answered(server, "chat", {"messages": [message]})
    parts = [answer[f"{name}_duration"] for name in ("load", "prompt_eval", "eval")]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= answer["total_duration"] * 1.01
    assert answer["total_duration"] < 120e9


def test_a_picture_has_the_place_that_its_message_marks(server: Server) -> None:
    # Frigate's form of a frame with a caption.
    content = f"Camera 1\n[img]\n{picture.QUESTION}"
    body = {
        "messages": [{"role": "user", "content": content, "images": [PNG]}],
        "options": {"temperature": 0.5, "repeat_penalty": 1.05, "num_predict": 4},
    }
    assert post(server, "chat", {**body, "stream": False}).status_code == 200


def test_an_answer_keeps_to_a_schema(server: Server) -> None:
    message = {"role": "user", "content": picture.QUESTION, "images": [PNG]}
    body = {"messages": [message], "format": SCHEMA, "options": {"temperature": 0}}
    content = json.loads(answered(server, "chat", body)["message"]["content"])
    assert sorted(content) == ["count", "shape"]
    body = {"prompt": "Hello", "format": "json", "options": {"num_predict": 8}}
    assert answered(server, "generate", body)["response"].startswith("{")


def test_home_assistants_conversation_is_answered(
    server: Server,
) -> None:
    call = {"function": {"name": "HassTurnOn", "arguments": {"name": "lamp"}}}
    body = {
        "messages": [
            {"role": "system", "content": "You control a house."},
            {"role": "user", "content": "Turn on the lamp"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": '{"data":{"success":true},"error":null}'},
        ],
        "tools": [TOOL],
        "options": {"num_ctx": 8192.0, "num_predict": 4, "temperature": 0},
        "keep_alive": -1,
        "think": False,
    }
    assert answered(server, "chat", body)["done_reason"] in ("stop", "length")


def test_a_raw_prompt_with_a_picture_is_continued(server: Server) -> None:
    body = {
        "prompt": "<|start_header_id|>user<|end_header_id|>\n\n[img]"
        f"{picture.QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "images": [PNG],
        "raw": True,
        "options": {"temperature": 0},
    }
    assert answered(server, "generate", body)["response"] == picture.ANSWER


def test_what_the_server_says_about_itself_is_true(server: Server) -> None:
    assert httpx.get(server.url).text == "Ollama is running"
    (model,) = httpx.get(f"{server.url}/api/tags").json()["models"]
    (loaded,) = httpx.get(f"{server.url}/api/ps").json()["models"]
    assert model["name"] == loaded["name"] == "mllama-demo:latest"
    assert model["size"] > 0
    shown = post(server, "show", {"model": model["name"]}).json()
    assert shown["capabilities"] == ["completion", "vision", "tools"]
    assert shown["model_info"]["mllama.context_length"] == loaded["context_length"]
    assert "tools" in shown["template"]
    body = {"model": model["name"], "prompt": "Hello", "options": {"temperature": 0}}
    assert answered(server, "generate", body)["response"] == picture.GREETING


@pytest.mark.parametrize("stream", [True, False])
def test_errors_are_ollamas(server: Server, stream: bool) -> None:
    message = {"role": "user", "content": "Hi"}
    cases = [
        ({"model": "llava", "messages": [message]}, 404, "model 'llava' not found"),
        ({"messages": [{**message, "images": ["!"]}]}, 400, "image 1: "),
        (
            {"messages": [{**message, "images": [_broken()]}]},
            400,
            "image 1: ",
        ),
        ({"messages": [{**message, "content": "x " * 9000}]}, 400, "too long"),
    ]
    for body, status, text in cases:
        response = post(server, "chat", {**body, "stream": stream})
        assert response.status_code == status
        content = response.json()
        assert list(content) == ["error"]
        assert text in content["error"]


def _broken() -> str:
    return base64.b64encode(picture.png()[:100]).decode()
