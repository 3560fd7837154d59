"""Finds the pictures that a typed line names, as terminals paste what is dropped.

Terminals quote a dropped path, escape its spaces with backslashes, write a ``file://``
URL, or do nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from mllama.errors import ImageError, shortened

_SUFFIXES: Final = frozenset(
    {"png", "jpg", "jpeg", "jpe", "jfif", "mpo", "gif", "webp", "avif", "heic", "heif"}
    | {"hif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k"}
    | {"jpx", "tga"}
)
"""Suffixes of the formats that can be read, without their dots."""

_WORD: Final = re.compile(
    r"""(?<!\S)(?:'(?P<single>[^'\n]+)'|"(?P<double>[^"\n]+)"|(?P<bare>(?:\\.|[^\s\\])+))"""
)
"""A quoted text or a word at the beginning of a line or after a space."""

_ESCAPED: Final = re.compile(r"\\(.)")
_BEGINS_PATH: Final = re.compile(r"(?:~?/|\.{1,2}/|file://)")
_PUNCTUATION: Final = ".,;:!?)]}\"'"
_NEXT_WORD: Final = re.compile(r"[ ]+(?:\\.|[^\s\\])+")


@dataclass(frozen=True)
class FoundPicture:
    """A picture that a line names.

    Attributes:
        source: Its path or URL.
        start: Where its name begins in the line.
        end: Where its name ends.
    """

    source: Path | str
    start: int
    end: int

    @property
    def short_name(self) -> str:
        """Returns the name that stays in a sentence: the last part of the path."""
        if isinstance(self.source, Path):
            return self.source.name
        return Path(unquote(urlsplit(self.source).path)).name


@dataclass(frozen=True)
class ReadLine:
    """A line without its pictures.

    Attributes:
        text: The question; empty if the line has pictures only.
        pictures: Paths and URLs of the pictures, in order.
        missing: Names that look like pictures, but there is no such file.
    """

    text: str
    pictures: list[Path | str]
    missing: list[str]


def read_line(line: str) -> ReadLine:
    """Separates a line's pictures from its text.

    A picture's name at the beginning or the end is dropped from the text.  Within a
    sentence the file's name stays: "Is a.png larger than b.png?".

    Raises:
        ImageError: If a path that can only mean a picture doesn't exist.
    """
    found: list[FoundPicture] = []
    missing: list[str] = []
    position = 0
    while match := _WORD.search(line, position):
        picture = _picture(line, match)
        if picture is not None:
            found.append(picture)
        elif _has_suffix(bare := _stripped(match)) and "://" not in bare:
            missing.append(shortened(bare))
        position = picture.end if picture is not None else match.end()
    return ReadLine(_text(line, found), [each.source for each in found], missing)


def _stripped(match: re.Match[str]) -> str:
    return (match["bare"] or "").rstrip(_PUNCTUATION)


def _picture(line: str, match: re.Match[str]) -> FoundPicture | None:
    """Returns the picture that a word names, if it names one."""
    quoted = match["single"] or match["double"]
    if quoted is not None:
        source = _source(quoted)
        return None if source is None else FoundPicture(source, *match.span())
    for end in _ends(match):
        if (source := _source(_unescaped(line[match.start() : end]))) is not None:
            return FoundPicture(source, match.start(), end)
    if not _BEGINS_PATH.match(match["bare"]):
        return None
    # A path whose spaces are neither quoted nor escaped.
    end = match.end()
    while more := _NEXT_WORD.match(line, end):
        end = more.end()
        for shorter in (end, end - _trailing_punctuation(line[:end])):
            name = _unescaped(line[match.start() : shorter])
            if _has_suffix(name) and _is_file(path := _path(name)):
                return FoundPicture(path, match.start(), shorter)
    name = _stripped(match)
    if _has_suffix(name):
        raise ImageError(f"there is no image file {shortened(_unescaped(name))}")
    return None


def _ends(match: re.Match[str]) -> Iterator[int]:
    """Yields where a word may end: with the punctuation behind it, or before it."""
    yield match.end()
    if punctuation := _trailing_punctuation(match["bare"]):
        yield match.end() - punctuation


def _trailing_punctuation(text: str) -> int:
    return len(text) - len(text.rstrip(_PUNCTUATION))


def _source(name: str) -> Path | str | None:
    """Returns the picture that a name stands for, or None if it is other text."""
    if name.lower().startswith(("http://", "https://")):
        return name if _has_suffix(urlsplit(name).path) else None
    path = _path(name)
    if not _is_file(path):
        return None
    if _has_suffix(name) or (_BEGINS_PATH.match(name) and _is_picture(path)):
        return path
    return None


def _path(name: str) -> Path:
    if name.lower().startswith("file://"):
        return Path(unquote(urlsplit(name).path))
    if name.startswith("~/"):
        return Path(name).expanduser()
    return Path(name)


def _has_suffix(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    return bool(dot and stem and suffix.lower() in _SUFFIXES)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    # The name is too long, or has a zero byte.
    except (OSError, ValueError):
        return False


def _is_picture(path: Path) -> bool:
    from mllama.images.load import open_image

    try:
        open_image(path)
    except ImageError:
        return False
    return True


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def _text(line: str, found: list[FoundPicture]) -> str:
    """Returns a line's text, with the names of pictures within a sentence."""
    pieces: list[str] = []
    position = 0
    for picture in found:
        pieces += [line[position : picture.start], picture.short_name]
        position = picture.end
    pieces.append(line[position:])
    first, last = 0, len(pieces) - 1
    while first < last and not pieces[first].strip():
        first += 2
    while last > first and not pieces[last].strip():
        last -= 2
    if first == last:
        return pieces[first].strip()
    # Within a sentence that names one, the names at the end are a part of it, too.
    return "".join(pieces[first:]).strip()
