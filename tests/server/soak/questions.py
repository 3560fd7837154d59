"""Questions about pictures in every API, and the text of what comes back."""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from mllama.demo_model import MODEL_NAME, PICTURES
from tests.server.fuzzing.exchange import Answer, Exchange

_LENGTH: Final = 24
"""Tokens of an answer, more than the demo model's answers have."""


@dataclass(frozen=True)
class Question:
    """A question about a picture, or a text to go on with.

    Attributes:
        api: One of :data:`APIS`.
        picture: The number of a demo picture; None asks without one.
        variant: Which of its copies, which differ in a pixel at the edge.
        stream: Whether the answer is a stream.
    """

    api: str
    picture: int | None
    variant: int = 0
    stream: bool = False

    @property
    def key(self) -> tuple[str, int | None, int]:
        """Returns what the answer depends on."""
        return self.api, self.picture, self.variant

    def exchange(self, host: str, leaves_after: int | None = None) -> Exchange:
        """Returns the request."""
        path, body = APIS[self.api][0](self)
        headers = (("host", host), ("content-type", "application/json"))
        return Exchange("POST", path, headers, json.dumps(body).encode(), leaves_after)

    def outcome(self, answer: Answer) -> tuple[str, str | None]:
        """Returns the text of an answer, and the error that ended it, or None."""
        if answer.status != 200:
            return "", f"status {answer.status}"
        parts = _events(answer) if self.stream else [answer.json()]
        error = next((error for part in parts if (error := _error(part))), None)
        if error is None and self.stream and not answer.body.endswith(b"\n"):
            error = "cut"
        return "".join(map(APIS[self.api][1], parts)), error


@functools.cache
def _picture(number: int, variant: int) -> str:
    """Returns a copy of a demo picture in base64."""
    picture = Image.open(PICTURES[number].path).convert("RGB")
    color = picture.getpixel((0, 0))
    assert isinstance(color, tuple)
    red = (color[0] + variant) % 256
    picture.putpixel((0, 0), (red, *color[1:]))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _asked(question: Question) -> tuple[str, str | None]:
    if question.picture is None:
        return "Hello", None
    text = PICTURES[question.picture].questions[0].text
    return text, _picture(question.picture, question.variant)


def _chat(question: Question) -> tuple[str, Any]:
    text, data = _asked(question)
    content: list[Any] = [{"type": "text", "text": text}]
    if data is not None:
        url = f"data:image/png;base64,{data}"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": _LENGTH,
        "temperature": 0,
        "stream": question.stream,
    }


def _completion(question: Question) -> tuple[str, Any]:
    return "/v1/completions", {
        "prompt": _asked(question)[0],
        "max_tokens": _LENGTH,
        "temperature": 0,
        "stream": question.stream,
    }


def _responses(question: Question) -> tuple[str, Any]:
    text, data = _asked(question)
    content: list[Any] = [{"type": "input_text", "text": text}]
    if data is not None:
        url = f"data:image/png;base64,{data}"
        content.insert(0, {"type": "input_image", "image_url": url})
    return "/v1/responses", {
        "input": [{"role": "user", "content": content}],
        "max_output_tokens": _LENGTH,
        "temperature": 0,
        "stream": question.stream,
    }


def _messages(question: Question) -> tuple[str, Any]:
    text, data = _asked(question)
    content: list[Any] = [{"type": "text", "text": text}]
    if data is not None:
        source = {"type": "base64", "media_type": "image/png", "data": data}
        content.insert(0, {"type": "image", "source": source})
    return "/v1/messages", {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": _LENGTH,
        "temperature": 0,
        "stream": question.stream,
    }


def _ollama(question: Question) -> tuple[str, Any]:
    text, data = _asked(question)
    message = {"role": "user", "content": text}
    return "/api/chat", {
        "model": MODEL_NAME,
        "messages": [message | ({} if data is None else {"images": [data]})],
        "options": {"num_predict": _LENGTH, "temperature": 0},
        "stream": question.stream,
    }


def _chat_text(part: Any) -> str:
    return "".join(
        (choice.get("message") or choice["delta"]).get("content") or ""
        for choice in part.get("choices", ())
    )


def _completion_text(part: Any) -> str:
    return "".join(choice["text"] for choice in part.get("choices", ()))


def _responses_text(part: Any) -> str:
    if part.get("object") == "response":
        return "".join(
            content["text"] for item in part["output"] for content in item["content"]
        )
    is_delta = part.get("type") == "response.output_text.delta"
    return str(part["delta"]) if is_delta else ""


def _messages_text(part: Any) -> str:
    if part.get("type") == "message":
        return "".join(block["text"] for block in part["content"])
    return str(part.get("delta", {}).get("text", ""))


def _ollama_text(part: Any) -> str:
    return str(part.get("message", {}).get("content", ""))


APIS: Mapping[
    str, tuple[Callable[[Question], tuple[str, Any]], Callable[[Any], str]]
] = {
    "chat": (_chat, _chat_text),
    "completions": (_completion, _completion_text),
    "responses": (_responses, _responses_text),
    "messages": (_messages, _messages_text),
    "ollama": (_ollama, _ollama_text),
}
"""How each API asks, and where its answers have their text."""


def _events(answer: Answer) -> list[Any]:
    return list(_parsed(answer.body.decode()))


def _parsed(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        data = line.removeprefix("data: ")
        if data.startswith("{") and data.endswith("}"):
            yield json.loads(data)


def _error(part: Any) -> str | None:
    """Returns the error that a part of a stream says, or None."""
    error = part.get("error")
    if part.get("type") == "response.failed":
        error = part["response"]["error"]
    return None if not error else json.dumps(error)[:200]
