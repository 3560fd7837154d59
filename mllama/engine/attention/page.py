"""One HTML file that shows where a word looked under the pointer.

The file contains everything it needs.  Nothing in it comes from a text as HTML: the
script reads JSON and writes text nodes, and the page's policy allows that script alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from mllama.engine.attention.document import document
from mllama.engine.attention.overlay import COLORS

if TYPE_CHECKING:
    from mllama.engine.attention.attention import Attention

_MAX_SIDE: Final = 1120
"""Longest side of a picture in the file, in pixels."""

_FOLDER: Final = Path(__file__).parent

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Where each word looked</h1>
<p id="answer" aria-label="The answer; point at a word, or select it"></p>
<p id="shares" role="status"></p>
<div id="images"></div>
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def page(attention: Attention) -> str:
    """Returns the HTML."""
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    data = {
        **document(attention),
        "segments": _segments(attention),
        "pictures": [_data_url(picture) for picture in attention.pictures],
        "colors": COLORS,
    }
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return _PAGE.format(
        policy=html.escape(policy),
        title=html.escape(attention.answer.strip()[:80] or "Where each word looked"),
        style=style,
        data=_escaped(data),
        script=script,
    )


def _segments(attention: Attention) -> list[dict[str, Any]]:
    """Returns the text in pieces, each with the index of its word or None."""
    text = "".join(
        "\n" if token.is_special else token.text for token in attention.tokens
    ).strip()
    pieces: list[dict[str, Any]] = []
    end = 0
    for index, word in enumerate(attention.words):
        start = text.find(word.text, end)
        if start < 0:  # Its first character began in a part that is no text.
            continue
        pieces.append({"text": text[end:start], "word": None})
        end = start + len(word.text)
        pieces.append({"text": word.text, "word": index})
    return [*pieces, {"text": text[end:], "word": None}]


def _escaped(data: Any) -> str:
    """Returns JSON that can't end or change the element that it is in."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _digest(text: str) -> str:
    """Returns what the policy calls an element's content."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest())
    return f"sha256-{digest.decode()}"


def _data_url(picture: Image.Image) -> str:
    picture = picture.copy()
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    content = BytesIO()
    picture.save(content, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
