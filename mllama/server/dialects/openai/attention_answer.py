"""Attention maps in the answer of a chat, in a compact form.

``docs/attention.md`` describes it.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mllama.requests.attention import ImageMaps
from mllama.requests.attention_words import AttentionToken, AttentionWord
from mllama.requests.events import AnswerAttention

_STEPS: Final = 65535
"""The largest value of a map, which is as much attention as its ``scale``."""

_DIGITS: Final = 3
"""Decimal places of lengths in pixels."""


def attention_object(attention: AnswerAttention) -> dict[str, Any]:
    """Returns the attention of an answer as JSON values."""
    maps = attention.maps
    if maps is None:
        return {"error": {"message": attention.error}}
    return {
        "heads": [list(head) for head in maps.heads],
        "tokens": [_token(token) for token in attention.tokens],
        "words": [_word(word) for word in attention.words],
        "images": [_image(image) for image in maps.images],
    }


def _token(token: AttentionToken) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "prompt": token.is_prompt}


def _word(word: AttentionWord) -> dict[str, Any]:
    return {
        "text": word.text,
        "prompt": word.is_prompt,
        "tokens": [word.start, word.end],
        "map_of_token": word.at,
    }


def _image(image: ImageMaps) -> dict[str, Any]:
    grid = image.grid
    scale = image.maps.max(axis=(1, 2), initial=0)
    # A map without any attention has the scale 0.
    parts = image.maps / np.where(scale > 0, scale, 1)[:, None, None]
    covered = (grid.covered_width, grid.covered_height)
    return {
        "width": grid.width,
        "height": grid.height,
        "rectangle": [0, 0, *(round(side, _DIGITS) for side in covered)],
        "shape": list(image.maps.shape),
        "scale": _encoded(scale, "<f4"),
        "maps": _encoded(np.rint(parts * _STEPS), "<u2"),
        "class_tokens": _encoded(image.class_mass, "<f4"),
        "padding": _encoded(image.padding_mass, "<f4"),
    }


def _encoded(values: npt.NDArray[Any], kind: str) -> str:
    """Returns the base64 of values."""
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()
