"""The requests of the parity tests, with generated images.

Image sizes are given in tiles, so that one list serves every checkpoint: an image of
(1.8, 1.7) tiles is cut into the same four tiles at 64 and at 560 pixels.
"""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Message = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One request: a name, its messages with PIL images inside, and its tiles.

    Messages are in Hugging Face's form: ``{"type": "image", "image": PIL image}``
    and ``{"type": "text", "text": ...}`` parts.  ``tiles`` is the number of valid
    tiles of each image, in order.
    """

    name: str
    messages: tuple[Message, ...]
    tiles: tuple[int, ...] = ()

    @property
    def images(self) -> list[Image.Image]:
        """The images in the order of the conversation."""
        return images_of(self.messages)

    def openai_messages(self) -> list[Message]:
        """Returns the messages with images as ``image_url`` parts (PNG, data URL)."""

        def convert(part: dict[str, Any]) -> dict[str, Any]:
            if part["type"] != "image":
                return part
            return {"type": "image_url", "image_url": {"url": data_url(part["image"])}}

        return [
            m
            if isinstance(m["content"], str)
            else {**m, "content": [convert(p) for p in m["content"]]}
            for m in self.messages
        ]


def images_of(messages: tuple[Message, ...] | list[Message]) -> list[Image.Image]:
    """Returns all images of a conversation, in order."""
    return [
        part["image"]
        for message in messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image"
    ]


def data_url(image: Image.Image) -> str:
    """Encodes an image as a PNG data URL (lossless)."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(name: str, width: int, height: int) -> Image.Image:
    """Draws coarse colored noise over a gradient, which depends only on the arguments.

    The noise is coarse so that it survives resizing, and the gradient makes the tiles
    of one image differ.
    """
    generator = np.random.default_rng([zlib.crc32(name.encode()), width, height])
    grains = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    noise = np.asarray(
        Image.fromarray(grains).resize((width, height), Image.Resampling.NEAREST),
        dtype=np.float32,
    )
    across = np.linspace(0, 255, width, dtype=np.float32)[None, :, None]
    down = np.linspace(255, 0, height, dtype=np.float32)[:, None, None]
    gradient = np.concatenate(
        np.broadcast_arrays(across, down, (across + down) / 2), axis=-1
    )
    return Image.fromarray((0.6 * noise + 0.4 * gradient).astype(np.uint8))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _user(*parts: dict[str, Any]) -> Message:
    return {"role": "user", "content": list(parts)}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": [_text(text)]}


def _system(text: str) -> Message:
    return {"role": "system", "content": [_text(text)]}


def cases(tile: int) -> list[Case]:
    """Returns all requests for a checkpoint with tiles ``tile`` pixels wide.

    The seed of the test checkpoints was chosen for these very tokens, their spelling
    included.
    """

    def image(name: str, width: float, height: float) -> dict[str, Any]:
        size = (max(1, round(width * tile)), max(1, round(height * tile)))
        return {"type": "image", "image": picture(name, *size)}

    def pixels(name: str, width: int, height: int) -> dict[str, Any]:
        return {"type": "image", "image": picture(name, width, height)}

    ask = _text("What is in this picture?")
    return [
        Case("one_tile", (_user(image("a", 0.9, 0.8), ask),), (1,)),
        Case("two_tiles", (_user(image("b", 1.9, 0.9), ask),), (2,)),
        Case("four_tiles", (_user(image("c", 1.8, 1.7), ask),), (4,)),
        Case("wide", (_user(image("d", 3.6, 0.7), ask),), (4,)),
        Case("tall", (_user(image("e", 0.6, 2.7), ask),), (3,)),
        Case("larger_than_canvas", (_user(image("f", 5.0, 4.0), ask),), (4,)),
        Case("one_pixel", (_user(pixels("g", 1, 1), ask),), (1,)),
        Case("five_by_three_pixels", (_user(pixels("h", 5, 3), ask),), (1,)),
        Case("text_only", (_user(_text("How many colours are there?")),)),
        Case(
            "text_only_with_system",
            (
                _system("You are a helpful assistant."),
                {"role": "user", "content": "Name the colours."},
            ),
        ),
        Case(
            "system_and_image",
            (
                _system("You answer in one short sentence."),
                _user(image("i", 0.9, 1.8), _text("Describe the image.")),
            ),
            (2,),
        ),
        Case(
            "text_before_image",
            (_user(_text("Look at this: "), image("j", 0.8, 0.9), _text(" What?")),),
            (1,),
        ),
        Case(
            "image_last",
            (_user(_text("Describe the image. "), image("k", 1.7, 0.9)),),
            (2,),
        ),
        Case(
            "two_images_in_one_turn",
            (
                _user(
                    image("l", 0.9, 0.9),
                    image("m", 1.8, 1.8),
                    _text("Compare the two images."),
                ),
            ),
            (1, 4),
        ),
        Case(
            "three_adjacent_images",
            (
                _user(
                    image("n", 0.7, 0.9),
                    image("o", 0.9, 2.8),
                    image("p", 1.8, 0.8),
                    _text("Which is red?"),
                ),
            ),
            (1, 3, 2),
        ),
        Case(
            "text_between_images",
            (
                _user(
                    _text("First: "),
                    image("q", 1.9, 0.8),
                    _text(" and second: "),
                    image("r", 0.9, 0.9),
                    _text(" Which is brighter?"),
                ),
            ),
            (2, 1),
        ),
        Case(
            "image_per_turn",
            (
                _user(image("s", 0.9, 0.8), _text("What is in this picture?")),
                _assistant("A red square."),
                _user(image("t", 1.8, 1.9), _text("And in this one?")),
            ),
            (1, 4),
        ),
        Case(
            "second_turn_about_one_image",
            (
                _user(image("u", 0.8, 0.8), _text("What is in this picture?")),
                _assistant("A red square."),
                _user(_text("What colour is the circle?")),
            ),
            (1,),
        ),
    ]


# One case for each kind of position of an image, for checkpoints on which every image
# takes seconds.
REPRESENTATIVE_CASES = (
    "four_tiles",
    "text_only",
    "system_and_image",
    "text_between_images",
)


def case(name: str, tile: int) -> Case:
    """Returns the case with this name."""
    return {c.name: c for c in cases(tile)}[name]


def case_names() -> list[str]:
    """Returns the names of all cases, for ``pytest.mark.parametrize``."""
    return [c.name for c in cases(8)]
