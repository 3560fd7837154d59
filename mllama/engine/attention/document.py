"""Attention as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mllama.engine.attention.attention import Attention
    from mllama.requests.attention import ImageMaps
    from mllama.requests.attention_words import AttentionWord

_DIGITS: Final = 6
"""Decimal places of shares, which are from 0 to 1."""


def document(attention: Attention) -> dict[str, Any]:
    """Returns answer, tokens, words and maps as JSON values."""
    return {
        "answer": attention.answer,
        "heads": [list(head) for head in attention.heads],
        "images": [
            {"width": image.grid.width, "height": image.grid.height}
            for image in attention.images
        ],
        "tokens": [
            {"id": token.id, "text": token.text, "prompt": token.is_prompt}
            for token in attention.tokens
        ],
        "words": [
            {
                "text": word.text,
                "prompt": word.is_prompt,
                "tokens": [word.start, word.end],
                "map_of_token": word.at,
                "images": [_map(word, image) for image in attention.images],
            }
            for word in attention.words
        ],
    }


def _map(word: AttentionWord, image: ImageMaps) -> dict[str, Any]:
    """Returns a word's map in an image."""
    covered = (image.grid.covered_width, image.grid.covered_height)
    return {
        "grid": [
            [round(float(share), _DIGITS) for share in row]
            for row in image.maps[word.at]
        ],
        # The grid may extend beyond the picture, by less than a patch.
        "rectangle": [0, 0, *(round(side, 3) for side in covered)],
        "class_tokens": round(float(image.class_mass[word.at]), _DIGITS),
        "padding": round(float(image.padding_mass[word.at]), _DIGITS),
    }
