"""Python literals in calls: where they end, and their values, without running code."""

from __future__ import annotations

import ast
import re
from typing import Any, Final

from mllama.requests.tool_calls.call_reader import NotACallError

_MAX_DEPTH: Final = 50
_MAX_LENGTH: Final = 1_000_000

_CLOSERS: Final = {"(": ")", "[": "]", "{": "}"}
_QUOTES: Final = "\"'"
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_KNOWN_ESCAPES: Final = frozenset("\n\\'\"abfnrtvxuUN01234567")
_JSON_NAMES: Final = {"true": True, "false": False, "null": None}
"""Names that models write for Python's own."""


class LiteralScanner:
    """Finds the end of a literal argument, which is a comma or a closing parenthesis.

    Args:
        text: The beginning of the literal, if it is known: three quotes.

    Attributes:
        text: The literal so far.
    """

    def __init__(self, text: str = "") -> None:
        self._pieces = [text] if text else []
        self._length = len(text)
        self._closers: list[str] = []
        self._quote = text
        self._opening = ""
        self._seen_quotes = 0
        self._is_escaped = False
        self._last = ""

    @property
    def text(self) -> str:
        """Returns the literal so far."""
        return "".join(self._pieces)

    def push(self, character: str) -> bool:
        """Adds a character; returns False if the literal has ended before it.

        Raises:
            NotACallError: If no literal has it, or the literal is too long or nested
                too deeply.
        """
        if self._opening and not self._opens(character):
            # One quote opens a plain string; two are an empty one.
            self._quote = "" if len(self._opening) == 2 else self._opening
            self._opening = ""
        if self._quote:
            self._push_to_string(character)
        elif not self._opening and not self._push_outside(character):
            return False
        self._pieces.append(character)
        self._length += 1
        if self._length > _MAX_LENGTH:
            raise NotACallError
        return True

    def _opens(self, character: str) -> bool:
        """Returns True if a character is one more of a string's opening quotes."""
        if character != self._opening[0]:
            return False
        self._opening += character
        if len(self._opening) == 3:
            self._quote, self._opening = self._opening, ""
            self._seen_quotes = -1  # This one is not of the closing ones.
        return True

    def _push_to_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
            self._seen_quotes = 0
        elif character == self._quote[0]:
            self._seen_quotes += 1
            if self._seen_quotes == len(self._quote):
                self._quote, self._seen_quotes, self._last = "", 0, character
        else:
            self._seen_quotes = 0

    def _push_outside(self, character: str) -> bool:
        """Reads a character outside of strings."""
        if not self._closers and character in ",)":
            return False
        if character in _QUOTES:
            # Prefixes such as of f-strings are no part of a literal here.
            if self._last.isalnum() or self._last == "_":
                raise NotACallError
            self._opening = character
        elif character in _CLOSERS:
            self._closers.append(_CLOSERS[character])
            if len(self._closers) > _MAX_DEPTH:
                raise NotACallError
        elif self._closers and character == self._closers[-1]:
            self._closers.pop()
        elif not (character.isalnum() or character in "_.,:+- \t\r\n"):
            raise NotACallError
        if character in "+-" and self._last in ("+", "-"):
            raise NotACallError
        if not character.isspace():
            self._last = character
        return True


def literal_value(text: str) -> Any:
    """Returns the value of a literal: text, numbers, lists, dictionaries, and constants
    under the names of Python or JSON.

    Raises:
        NotACallError: If the text is anything else.
    """
    try:
        tree = ast.parse(_ESCAPE.sub(_with_known_escape, text.strip()), mode="eval")
        return _value(tree.body)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise NotACallError from error


def _with_known_escape(match: re.Match[str]) -> str:
    r"""Returns an escape; a backslash before any other character, such as ``\d``, stays
    without Python's warning."""
    return match[0] if match[1] in _KNOWN_ESCAPES else f"\\{match[0]}"


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.UnaryOp(
            op=ast.USub() | ast.UAdd() as sign,
            operand=ast.Constant(value=int() | float() as value),
        ) if not isinstance(value, bool):
            return -value if isinstance(sign, ast.USub) else value
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return {_key(k): _value(v) for k, v in zip(keys, values, strict=True)}
    raise NotACallError


def _key(node: ast.expr | None) -> str:
    key = None if node is None else _value(node)
    if not isinstance(key, str):
        raise NotACallError
    return key
