"""Messages are split into parts and images in order; mistakes are named."""

from __future__ import annotations

import base64
import gc
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllama.errors import ImageError, MllamaError
from mllama.requests.messages import (
    load_images,
    prompt_messages,
    read_conversation,
)


def picture(color: str) -> Image.Image:
    return Image.new("RGB", (4, 4), color)


def test_images_keep_their_position_and_order() -> None:
    conversation = read_conversation(
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": picture("red")},
                    {"type": "text", "text": "and"},
                    {"type": "image", "image": picture("blue")},
                ],
            },
        ]
    )
    assert conversation.messages[1]["content"] == [
        {"type": "image"},
        {"type": "text", "text": "and"},
        {"type": "image"},
    ]
    assert [image.getpixel((0, 0)) for image in conversation.images] == [
        (255, 0, 0),
        (0, 0, 255),
    ]


def test_images_precede_the_text_of_a_prompt() -> None:
    (system, user) = prompt_messages("What?", [picture("red")], "Be brief.")
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in user["content"]] == ["image", "text"]


def test_a_prompt_without_images_is_plain_text() -> None:
    assert prompt_messages("Hi") == [{"role": "user", "content": "Hi"}]
    assert prompt_messages("Hi", None) == [{"role": "user", "content": "Hi"}]


def test_one_image_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    picture("red").save(path)
    for image in (str(path), path, path.read_bytes(), picture("red"), path.as_posix()):
        messages = prompt_messages("What?", image)
        assert [part["type"] for part in messages[0]["content"]] == ["image", "text"]
        (found,) = read_conversation(messages).images
        assert found.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(MllamaError, match="not int"):
        prompt_messages("What?", 3)


def test_a_url_is_never_looked_up_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    packed = base64.b64encode(file.getvalue()).decode()
    assert len(packed) > 4096
    looked_up = []
    original = Path.is_file

    def spy(path: Path) -> bool:
        looked_up.append(path)
        return original(path)

    monkeypatch.setattr(Path, "is_file", spy)
    part = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{packed}"},
    }
    found = read_conversation([{"role": "user", "content": [part]}], tmp_path)
    assert found.images[0].size == (60, 60)
    part["image_url"] = {"url": "http://127.0.0.1:9/red.png"}
    with pytest.raises(ImageError, match="can't be fetched"):
        read_conversation([{"role": "user", "content": [part]}], tmp_path)
    assert not looked_up
    for path in ("a" * 5000, "a\0b"):
        part["image_url"] = {"url": path}
        with pytest.raises(ImageError, match=r"image 1: .*can't be read"):
            read_conversation([{"role": "user", "content": [part]}], tmp_path)


@pytest.mark.parametrize("shape", ["object", "string"])
def test_image_url_may_be_a_path(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "red.png"
    picture("red").save(path)
    url: Any = {"url": str(path)} if shape == "object" else str(path)
    message = {"role": "user", "content": [{"type": "image_url", "image_url": url}]}
    assert read_conversation([message]).images[0].size == (4, 4)


def test_relative_paths_are_relative_to_the_directory(tmp_path: Path) -> None:
    picture("red").save(tmp_path / "red.png")
    part = {"type": "image_url", "image_url": {"url": "red.png"}}
    (message,) = load_images([{"role": "user", "content": [part]}], tmp_path)
    # Messages with loaded images can be read again.
    (image,) = read_conversation([message]).images
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "MPO", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM"]
)
def test_loaded_images_are_their_files_not_their_pixels(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    pictures_before = count_pictures()
    Image.new("RGB", (400, 300), "red").save(path, kind)
    part = {"type": "image", "image": str(path)}
    (message,) = load_images([{"role": "user", "content": [part, part]}])
    for loaded in message["content"]:
        assert loaded["image"] == path.read_bytes()
    assert count_pictures() == pictures_before


def test_loading_finds_what_only_decoding_shows(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    part = {"type": "image", "image": str(path)}
    with pytest.raises(ImageError, match=r"image 1: .*cut\.png can't be decoded"):
        load_images([{"role": "user", "content": [part]}])


def test_a_given_picture_is_loaded_already() -> None:
    red = picture("red")
    part = {"type": "image", "image": red}
    (message,) = load_images([{"role": "user", "content": [part]}])
    assert message["content"][0]["image"] is red


def count_pictures() -> int:
    """Returns the number of pictures in memory."""
    gc.collect()
    return sum(issubclass(type(each), Image.Image) for each in gc.get_objects())


def test_an_answer_of_the_server_is_a_message() -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": "{}"},
    }
    nothing = {"refusal": None, "annotations": [], "audio": None, "function_call": None}
    read = read_conversation(
        [
            {"role": "developer", "content": "Be brief.", "name": "boss"},
            {"role": "user", "content": "Look", "name": "Al"},
            {"role": "assistant", "content": None, "tool_calls": [call], **nothing},
            {"role": "tool", "content": "a ball", "tool_call_id": "call_1"},
            {"role": "assistant", "content": "A ball.", "tool_calls": None, **nothing},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        ]
    )
    assert read.messages == [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": "Look", "name": "Al"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "a ball", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "A ball."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "No."},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "at least one message"),
        ("hello", "must be a list"),
        ([1], "must be an object"),
        ([{"role": "robot", "content": "x"}], "role must be one of"),
        ([{"role": "user"}], "content must be"),
        ([{"role": "user", "content": 3}], "content must be"),
        ([{"role": "user", "content": [3]}], "a part must be"),
        ([{"role": "user", "content": [{"type": "video"}]}], "a part must be"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text part"),
        ([{"role": "user", "content": [{"type": "image"}]}], "has no image"),
        ([{"role": "user", "content": "x", "extra": 1}], "'extra' is not supported"),
        (
            [{"role": "user", "content": "x", "tool_calls": []}],
            "'tool_calls' is not supported",
        ),
        (
            [{"role": "assistant", "content": "x", "audio": {"id": "a"}}],
            "'audio' is not supported",
        ),
        ([{"role": "tool", "content": "x", "tool_calls": []}], "'tool_calls' is not"),
    ],
)
def test_malformed_messages_are_refused(messages: Any, complaint: str) -> None:
    with pytest.raises(MllamaError, match=complaint):
        read_conversation(messages)


def test_the_faulty_message_and_image_are_named() -> None:
    messages = json.loads(
        '[{"role": "user", "content": "hi"}, {"role": "user", "content": '
        '[{"type": "image_url", "image_url": {"url": "missing.png"}}]}]'
    )
    with pytest.raises(ImageError, match=r"message 2: image 1: .*missing\.png"):
        read_conversation(messages)
