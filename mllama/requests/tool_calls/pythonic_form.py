"""Calls in the pythonic form of Llama 3.2 and 4: ``[f(a=1, b="x"), g()]``."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Final

from mllama.requests.tool_calls.call_reader import (
    CallArguments,
    CallName,
    CallPart,
    NotACallError,
    with_escaped_surrogates,
)
from mllama.requests.tool_calls.python_literals import LiteralScanner, literal_value

_SPACE: Final = " \t\r\n"
_MAX_NAME: Final = 256

_FINISHED: Final = re.compile(
    r"(?:[^\\]|\\N\{[^}]*\}|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}"
    r"|\\[0-7]{3}|\\[0-7]{1,2}(?=[^0-7])|\\[^NxuU0-7])*",
    re.DOTALL,
)
"""Characters of a Python string, and its escapes."""


class PythonicCallReader:
    """Reads a call that is written as in Python, with keyword arguments.

    A string argument is passed on as it comes, any other once it is complete.

    Args:
        names: The tools that may be called.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.is_done = False
        self.has_begun = False
        self._names = names
        self._expected = "name"
        self._word = ""
        self._name = ""
        self._keywords: set[str] = set()
        self._quote = ""
        self._literal = LiteralScanner()
        self._parts: list[CallPart] = []

    def feed(self, text: str, start: int, parts: list[CallPart]) -> int:
        """Reads a piece; see :class:`CallReader`."""
        self._parts = parts
        position = start
        try:
            while position < len(text) and not self.is_done:
                position += self._read(text[position])
        finally:
            if self._expected in ("string", "escape"):
                self._pass_on_string(is_complete=False)
        return position

    def _read(self, character: str) -> bool:
        """Reads a character; returns False if it has to be read again."""
        match self._expected:
            case "name" | "keyword":
                self._read_word(character)
            case "opening" | "equals":
                self._read_sign(character)
            case "argument or end":
                self._read_beginning(character)
            case "value":
                return self._read_value_start(character)
            case "quotes":
                return self._read_quotes(character)
            case "string" | "escape":
                self._read_string(character)
            case "literal":
                return self._read_literal(character)
            case "comma or end":
                self._read_end(character)
        return True

    def _read_word(self, character: str) -> None:
        """Reads a character of the call's name or of a keyword."""
        if (
            character.isalnum()
            or character == "_"
            or (self._expected == "name" and character in "-.")
        ):
            self._word += character
            if len(self._word) > _MAX_NAME:
                raise NotACallError
            return
        self._expected = "opening" if self._expected == "name" else "equals"
        self._read_sign(character)

    def _read_sign(self, character: str) -> None:
        """Reads what stands after a name or a keyword."""
        if character in _SPACE:
            return
        word, sign = self._word, "(" if self._expected == "opening" else "="
        if character != sign:
            raise NotACallError
        self._word = ""
        if sign == "(":
            if word not in self._names:
                raise NotACallError
            self._name = word
            self._expected = "argument or end"
            return
        if word in self._keywords:
            raise NotACallError
        self._write((", " if self._keywords else "") + f"{json.dumps(word)}: ")
        self._keywords.add(word)
        self._expected = "value"

    def _read_beginning(self, character: str) -> None:
        """Reads the first character of a keyword, or the end of the call."""
        if character == ")":
            self._end()
        elif character.isalpha() or character == "_":
            self._word, self._expected = character, "keyword"
        elif character not in _SPACE:
            raise NotACallError

    def _read_end(self, character: str) -> None:
        """Reads what stands after a value."""
        if character == ",":
            self._expected = "argument or end"
        elif character == ")":
            self._end()
        elif character not in _SPACE:
            raise NotACallError

    def _end(self) -> None:
        self._write("}")
        self.is_done = True

    def _read_value_start(self, character: str) -> bool:
        if character in _SPACE:
            return True
        if character in "\"'":
            self._quote, self._expected = character, "quotes"
            return True
        self._literal, self._expected = LiteralScanner(), "literal"
        return False

    def _read_quotes(self, character: str) -> bool:
        """Reads what stands after an opening quote: one quote is of a plain string,
        two are an empty one, and three have text on several lines."""
        if character != self._quote[0]:
            is_empty = len(self._quote) == 2
            self._write('""' if is_empty else '"')
            self._expected = "comma or end" if is_empty else "string"
            self._quote, self._word = self._quote[0], ""
            return False
        self._quote += character
        if len(self._quote) == 3:
            self._literal, self._expected = LiteralScanner(self._quote), "literal"
        return True

    def _read_string(self, character: str) -> None:
        """Reads a character of a plain string."""
        if self._expected == "escape":
            self._expected = "string"
        elif character == "\\":
            self._expected = "escape"
        elif character == self._quote:
            self._pass_on_string(is_complete=True)
            self._write('"')
            self._expected = "comma or end"
            return
        elif character == "\n":
            raise NotACallError
        self._word += character

    def _pass_on_string(self, *, is_complete: bool) -> None:
        """Writes the part of a string whose escapes are complete."""
        end = len(self._word) if is_complete else _end_of_escapes(self._word)
        text, self._word = self._word[:end], self._word[end:]
        if text:
            value = literal_value(f"{self._quote}{text}{self._quote}")
            self._write(_as_json(value)[1:-1])

    def _read_literal(self, character: str) -> bool:
        if self._literal.push(character):
            return True
        self._write(_as_json(literal_value(self._literal.text)))
        self._expected = "comma or end"
        return False

    def _write(self, text: str) -> None:
        if not self.has_begun:
            self.has_begun = True
            self._parts += [CallName(self._name), CallArguments("{")]
        self._parts.append(CallArguments(text))


def _end_of_escapes(text: str) -> int:
    """Returns the length of a string's beginning that ends in no unfinished escape."""
    match = _FINISHED.match(text)
    assert match is not None
    return match.end()


def _as_json(value: Any) -> str:
    """Returns a value as JSON.

    Raises:
        NotACallError: If JSON has no such value.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise NotACallError from error
    return with_escaped_surrogates(text)
