"""An incremental check that a text is JSON."""

from __future__ import annotations

import re
from typing import Final

MAX_DEPTH: Final = 100
"""The deepest nesting of a value; clients parse it recursively."""

_MAX_NUMBER: Final = 1000
"""The longest number in characters."""

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NUMBER_START: Final = re.compile(
    r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*|(?:\.[0-9]+)?[eE][-+]?[0-9]*)?)?"
)
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_SPACE: Final = " \t\r\n"
_NUMBER_CHARACTERS: Final = frozenset("-+.eE0123456789")
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_LITERALS: Final = ("true", "false", "null")


class NotJsonError(ValueError):
    """A text is not the beginning of a JSON value."""

    position: int = 0
    """Where the first wrong character is in the piece."""


class JsonScanner:
    """Finds the end of one JSON value, which comes in pieces.

    The value begins with its first character, without whitespace before it.  A number
    ends at the character after it.

    Attributes:
        is_done: Whether the value is complete.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._closers: list[str] = []
        self._expected = "value"
        # What is inside of a string, a number or a literal.
        self._inside = ""
        self._escape = ""
        self._word = ""

    def feed(self, text: str, start: int = 0) -> int:
        """Reads a piece, up to the end of the value.

        Args:
            text: The piece.
            start: Where to begin in it.

        Returns:
            The position after the last character of the value.

        Raises:
            NotJsonError: If the value is not JSON, or nested too deeply.
        """
        position = start
        try:
            while position < len(text) and not self.is_done:
                if self._inside == "string" and not self._escape:
                    match = _PLAIN.match(text, position)
                    assert match is not None
                    position = match.end()
                if position < len(text):
                    position += self._read(text[position])
        except NotJsonError as error:
            error.position = position
            raise
        return position

    def _read(self, character: str) -> bool:
        """Reads a character; returns False if it is after the value."""
        if self._inside == "string":
            self._read_string(character)
        elif self._inside == "number":
            return self._read_number(character)
        elif self._inside:
            self._read_literal(character)
        else:
            self._read_structure(character)
        return True

    def _read_string(self, character: str) -> None:
        if self._escape:
            self._read_escape(character)
        elif character == "\\":
            self._escape = "\\"
        elif character == '"':
            self._inside = ""
            self._end_value(is_key=self._expected == "colon")
        else:
            raise NotJsonError

    def _read_escape(self, character: str) -> None:
        if self._escape == "\\":
            if character == "u":
                self._escape = "u"
            elif character in '"\\/bfnrt':
                self._escape = ""
            else:
                raise NotJsonError
        elif character in _HEX:
            self._escape = "" if len(self._escape) == 4 else self._escape + character
        else:
            raise NotJsonError

    def _read_number(self, character: str) -> bool:
        """Reads a character of a number, or returns False at the one after it."""
        if character in _NUMBER_CHARACTERS:
            self._word += character
            is_long = len(self._word) > _MAX_NUMBER
            if is_long or not _NUMBER_START.fullmatch(self._word):
                raise NotJsonError
            return True
        if not _NUMBER.fullmatch(self._word):
            raise NotJsonError
        self._inside = ""
        self._end_value()
        # Within a list or an object it is a separator.
        return False

    def _read_literal(self, character: str) -> None:
        self._word += character
        if not any(literal.startswith(self._word) for literal in _LITERALS):
            raise NotJsonError
        if self._word in _LITERALS:
            self._inside = ""
            self._end_value()

    def _read_structure(self, character: str) -> None:
        if character in _SPACE and self._closers:
            return
        if self._expected.endswith("or end") and character == self._closers[-1]:
            self._closers.pop()
            self._end_value()
        elif self._expected.startswith("value"):
            self._begin_value(character)
        elif self._expected.startswith("key") and character == '"':
            self._inside = "string"
            self._expected = "colon"
        elif self._expected == "colon" and character == ":":
            self._expected = "value"
        elif self._expected == "comma or end" and character == ",":
            self._expected = "key" if self._closers[-1] == "}" else "value"
        else:
            raise NotJsonError

    def _begin_value(self, character: str) -> None:
        if character in "{[":
            if len(self._closers) == MAX_DEPTH:
                raise NotJsonError
            self._closers.append("}" if character == "{" else "]")
            self._expected = "key or end" if character == "{" else "value or end"
        elif character == '"':
            self._inside = "string"
        elif character in "-0123456789":
            self._inside, self._word = "number", character
        elif character in "tfn":
            self._inside, self._word = "literal", character
        else:
            raise NotJsonError

    def _end_value(self, *, is_key: bool = False) -> None:
        if is_key:
            return
        self._expected = "comma or end"
        self.is_done = not self._closers
