"""Shows a picture in a terminal, with the best method that the terminal supports.

iTerm2 and WezTerm get the file through iTerm2's inline images protocol
(https://iterm2.com/documentation-images.html), kitty and Ghostty through kitty's
graphics protocol (https://sw.kovidgoyal.net/kitty/graphics-protocol/).  Other terminals
with 24-bit color get two pixels per character, drawn with the upper half block.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TextIO

Method = Literal["iterm2", "kitty", "blocks"]

COLUMNS = 40
"""Maximum width of a picture, in characters."""

LINES = 20
"""Maximum height of a picture, in lines, which are about twice as high as wide."""

_CHUNK = 4096
"""Maximum number of base64 characters in one command of kitty's protocol."""

_HALF_BLOCK = "▀"


def show_picture(png: Path | bytes, stream: TextIO) -> None:
    """Shows a picture if the stream is a terminal, and writes nothing otherwise.

    Args:
        png: A PNG file, or its content.
        stream: The stream to write to.
    """
    if not stream.isatty():
        return
    method = display_method(os.environ, stream.encoding)
    if method is None:
        return
    content = png if isinstance(png, bytes) else png.read_bytes()
    columns = _columns(content)
    if method == "iterm2":
        stream.write(iterm2_sequence(content, columns))
    elif method == "kitty":
        stream.writelines(kitty_sequence(content, columns))
    else:
        stream.writelines(half_blocks(content, columns))
    stream.flush()


def _columns(png: bytes) -> int:
    """Returns the width at which a picture is neither too wide nor too high."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        highest = int(2 * LINES * image.width / image.height)
    return max(1, min(COLUMNS, shutil.get_terminal_size().columns, highest))


def display_method(environment: Mapping[str, str], encoding: str) -> Method | None:
    """Returns how a terminal shows pictures, or None if it can't.

    Args:
        environment: The environment variables.
        encoding: The stream's encoding.
    """
    term = environment.get("TERM", "")
    program = environment.get("TERM_PROGRAM", "")
    # Terminal multiplexers don't pass graphics commands on.
    multiplexed = "TMUX" in environment or term.startswith(("screen", "tmux"))
    if not multiplexed:
        if program in ("iTerm.app", "WezTerm", "mintty"):
            return "iterm2"
        if program == "ghostty" or "kitty" in term or "KITTY_WINDOW_ID" in environment:
            return "kitty"
    truecolor = environment.get("COLORTERM") in ("truecolor", "24bit")
    if truecolor and "NO_COLOR" not in environment and _encodes(encoding):
        return "blocks"
    return None


def iterm2_sequence(png: bytes, columns: int) -> str:
    """Returns iTerm2's command that shows a file inline, and a newline."""
    data = base64.b64encode(png).decode()
    settings = f"inline=1;width={columns};preserveAspectRatio=1;size={len(png)}"
    return f"\033]1337;File={settings}:{data}\a\n"


def kitty_sequence(png: bytes, columns: int) -> Iterator[str]:
    """Yields kitty's commands that transmit and show a file, and a newline."""
    data = base64.b64encode(png).decode()
    settings = f"a=T,f=100,q=2,c={columns},"
    for start in range(0, len(data), _CHUNK):
        more = int(start + _CHUNK < len(data))
        yield f"\033_G{settings}m={more};{data[start : start + _CHUNK]}\033\\"
        settings = ""
    yield "\n"


def half_blocks(png: bytes, columns: int) -> Iterator[str]:
    """Yields a picture's lines; a character shows two pixels, one above the other."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        # An even number of pixel rows, since each line shows two.
        lines = max(1, round(image.height * columns / image.width / 2))
        small = image.convert("RGB").resize((columns, 2 * lines))
    pixels = small.load()
    assert pixels is not None
    for line in range(lines):
        row = []
        for column in range(columns):
            upper = _rgb(pixels[column, 2 * line])
            lower = _rgb(pixels[column, 2 * line + 1])
            row.append(f"\033[38;2;{upper};48;2;{lower}m{_HALF_BLOCK}")
        yield f"{''.join(row)}\033[0m\n"


def _rgb(pixel: object) -> str:
    assert isinstance(pixel, tuple)
    return ";".join(str(value) for value in pixel)


def _encodes(encoding: str) -> bool:
    try:
        _HALF_BLOCK.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True
