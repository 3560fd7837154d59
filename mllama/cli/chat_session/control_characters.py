"""Makes control characters visible, so that text can't command the terminal."""

from __future__ import annotations

from typing import Final

_KEPT: Final = "\n\t"
_PICTURES: Final = 0x2400
"""Where Unicode has pictures of the control characters 0 to 31: U+241B is ␛."""

_TABLE: Final[dict[int, str | None]] = {
    **{code: chr(_PICTURES + code) for code in range(0x20) if chr(code) not in _KEPT},
    0x0D: None,
    0x7F: "\u2421",
    # Terminals read these as ESC and a letter.
    **dict.fromkeys(range(128, 160), "�"),
}


def visible(text: str) -> str:
    """Returns text without control characters, except for line feeds and tabs.

    Escape sequences move the cursor, set the window's title, or fill the clipboard.
    Each one begins with a control character, which becomes its picture here.
    """
    return text.translate(_TABLE)
