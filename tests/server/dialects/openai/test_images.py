"""Images of a chat, in every form in which clients send them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mllama.requests.chat_prompt import ChatPrompt
from mllama.server.capabilities import ServerCapabilities
from tests.server.dialects.fake_engine import VOCABULARY

from .conftest import Api, error_of

LONG = bytes(range(256)) * 1000
"""A picture whose base64 is kept apart from the body."""


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{encoded(content)}"


def image(url: Any) -> Any:
    return {"type": "image_url", "image_url": url}


TEXT = {"type": "text", "text": "What is it?"}


def user(*content: Any, **more: Any) -> Any:
    return {"role": "user", "content": list(content), **more}


def seen(api: Api) -> Any:
    """The content of the last request's first message."""
    prompt = api.engine.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages[0]["content"]


@pytest.mark.parametrize("content", [b"short", LONG])
@pytest.mark.parametrize(
    "message",
    [
        lambda pixels: user(image({"url": data_url(pixels)}), TEXT),
        lambda pixels: user(image({"url": data_url(pixels), "detail": "high"}), TEXT),
        lambda pixels: user(image(data_url(pixels)), TEXT),
        lambda pixels: user(image(encoded(pixels)), TEXT),
        lambda pixels: user(image({"url": encoded(pixels)}), TEXT),
        lambda pixels: user({**TEXT, "image_url": {"url": data_url(pixels)}}),
        lambda pixels: user({**TEXT, "image_url": data_url(pixels)}),
        lambda pixels: user(TEXT, images=[encoded(pixels)]),
        lambda pixels: user(TEXT, images=[data_url(pixels)]),
        lambda pixels: {
            "role": "user",
            "content": "What is it?",
            "images": [encoded(pixels)],
        },
    ],
)
def test_an_image_is_seen_before_the_text(
    api: Api, message: Any, content: bytes
) -> None:
    response = api.chat(messages=[message(content)])
    assert response.status_code == 200, response.text
    assert api.engine.images == [content]
    assert api.engine.requests[0].images == [content]
    assert seen(api) == [{"type": "image"}, TEXT]
    assert response.json()["usage"]["prompt_tokens_details"]["image_tokens"] == 5


def test_images_keep_their_order_and_place(api: Api) -> None:
    contents = [b"one", LONG, b"three", LONG[::-1]]
    messages = [
        user(image(data_url(contents[0])), TEXT, image(data_url(contents[1]))),
        {"role": "assistant", "content": "Well."},
        user(TEXT, image(encoded(contents[3])), images=[encoded(contents[2])]),
    ]
    assert api.chat(messages=messages).status_code == 200
    assert list(api.engine.requests[0].images) == contents
    assert seen(api) == [{"type": "image"}, TEXT, {"type": "image"}]


def test_a_long_image_in_escaped_json_is_read(api: Api) -> None:
    body = json.dumps({"messages": [user(image(data_url(LONG)), TEXT)]})
    escaped = body.replace("/", "\\/")
    assert api.post("/v1/chat/completions", escaped.encode()).status_code == 200
    assert api.engine.images == [LONG]


def test_long_base64_in_a_text_stays_text(api: Api) -> None:
    text = encoded(LONG)
    for message in (
        {"role": "user", "content": text},
        user({"type": "text", "text": text}, image(text)),
        user({"type": "text", "text": data_url(LONG)}),
    ):
        assert api.chat(messages=[message]).status_code == 200
        content = seen(api)
        found = content if isinstance(content, str) else content[0]["text"]
        assert found in (text, data_url(LONG))


def test_long_base64_in_a_wrong_place_is_quoted_as_it_is(api: Api) -> None:
    error = error_of(
        api.chat(messages=[user(image(encoded(LONG)))], seed=encoded(LONG))
    )
    assert error["param"] == "seed"
    assert "mllama-" not in error["message"]
    assert len(error["message"]) < 300


def test_an_image_comes_from_its_url(api: Api) -> None:
    api.chat(messages=[user(image("http://pictures/one.png"), TEXT)])
    assert api.engine.images == [b"one"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (data_url(b"broken"), "the image is broken"),
        (data_url(b"broken" + LONG)[:-30] + "***" + "A" * 27, "base64"),
        ("not base64!", "base64"),
        ("http://pictures/missing.png", "can't be fetched"),
        ("data:image/png;base64", "comma"),
    ],
)
def test_a_broken_image_is_named_by_number_and_path(
    api: Api, broken: str, reason: str
) -> None:
    messages = [user(image(data_url(b"fine")), TEXT), user(TEXT, image(broken))]
    error = error_of(api.chat(messages=messages))
    assert error["message"].startswith("image 2: ")
    assert reason in error["message"]
    assert error["param"] == "messages[1].content[1].image_url"
    assert error["code"] == "invalid_image"
    assert not api.engine.requests


def test_too_many_images_are_refused_before_they_are_loaded(api: Api) -> None:
    messages = [user(*[image(data_url(b"x"))] * 5)]
    error = error_of(api.chat(messages=messages))
    assert "5 images" in error["message"]
    assert not api.engine.images


def test_the_files_of_all_images_share_a_limit() -> None:
    limited = ServerCapabilities(
        model_name="served", vocabulary=VOCABULARY, max_image_bytes=10
    )
    api = Api(capabilities=limited)
    fine = [user(image(data_url(b"12345")), image(encoded(b"12345")))]
    assert api.chat(messages=fine).status_code == 200
    error = error_of(api.chat(messages=[*fine, user(image(data_url(b"1")))]))
    assert "MAX_SERVE_MAX_MEDIA_BYTES" in error["message"]
