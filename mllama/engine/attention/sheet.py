"""One picture with a panel for each word of an answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

from mllama.engine.attention.overlay import overlaid

if TYPE_CHECKING:
    from mllama.engine.attention.attention import Attention

_PANEL: Final = 200
"""Width of a panel and greatest height of its picture, in pixels."""

_GAP: Final = 12
_CAPTION: Final = 24
_COLUMNS: Final = 6

MAX_PANELS: Final = 72
"""Words that are shown at most."""

_PAPER, _INK = (255, 255, 255), (32, 32, 32)


def sheet(attention: Attention) -> Image.Image:
    """Returns the pictures, then a panel for each word with its map.

    A word's panel shows the image that it looked at most.
    """
    pictures = [_reduced(picture) for picture in attention.pictures]
    several = len(pictures) > 1
    panels = [
        (f"image {number}" if several else "the picture", picture)
        for number, picture in enumerate(pictures, 1)
    ]
    shown = attention.words[:MAX_PANELS] if pictures else []
    for word in shown:
        number = attention.image_of(word)
        image = attention.images[number]
        caption = f"{word.text} ({number + 1})" if several else word.text
        panels.append(
            (caption, overlaid(pictures[number], image.maps[word.at], image.grid))
        )
    title = attention.answer.strip() or "(no answer)"
    if (left_out := len(attention.words) - len(shown)) and pictures:
        title += f" [{left_out} more words]"
    return _arranged(panels, title)


def _reduced(picture: Image.Image) -> Image.Image:
    """Returns a picture that fits a panel, enlarged if it is small."""
    scale = min(_PANEL / picture.width, _PANEL / picture.height)
    size = (
        max(1, round(picture.width * scale)),
        max(1, round(picture.height * scale)),
    )
    return picture.resize(size, Image.Resampling.LANCZOS)


def _arranged(panels: list[tuple[str, Image.Image]], title: str) -> Image.Image:
    font = ImageFont.load_default(15)
    # As even as possible: seven panels are four and three.
    columns = max(1, math.ceil(len(panels) / math.ceil(max(1, len(panels)) / _COLUMNS)))
    width = max(columns * (_PANEL + _GAP) + _GAP, 420)
    lines = _wrapped(title, font, width - 2 * _GAP)
    top = _GAP + 20 * len(lines) + _GAP
    tall = max((picture.height for _, picture in panels), default=0)
    rows = math.ceil(len(panels) / columns)
    height = top + rows * (tall + _CAPTION + _GAP)
    result = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(result)
    for number, line in enumerate(lines):
        draw.text((_GAP, _GAP + 20 * number), line, _INK, font)
    for index, (caption, picture) in enumerate(panels):
        row, column = divmod(index, columns)
        left = _GAP + column * (_PANEL + _GAP)
        y = top + row * (tall + _CAPTION + _GAP)
        result.paste(picture, (left + (_PANEL - picture.width) // 2, y))
        (line, *_) = _wrapped(caption, font, _PANEL) or [""]
        place = (left + _PANEL / 2, y + tall + 3)
        draw.text(place, line, _INK, font, anchor="ma")
    return result


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float
) -> list[str]:
    """Returns the lines of a text; a word that is too long is cut."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        while len(word) > 1 and font.getlength(word) > width:
            word = f"{word[:-2]}…"
        lines.append(word)
    return lines
