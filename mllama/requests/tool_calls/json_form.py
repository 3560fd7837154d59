"""Calls in Llama's JSON form: ``{"name": ..., "parameters": {...}}``."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from mllama.requests.tool_calls.call_reader import (
    CallArguments,
    CallName,
    CallPart,
    NotACallError,
    with_escaped_surrogates,
)
from mllama.requests.tool_calls.json_scanner import JsonScanner, NotJsonError

_NAME: Final = "name"
_ARGUMENTS: Final = ("parameters", "arguments")
"""Meta's key, and OpenAI's."""

_BEFORE_NAME: Final = (*_ARGUMENTS, "type", "id")
"""Keys that may precede the name.  Any other means that the object is an answer."""

CALL_KEYS: Final = frozenset({_NAME, *_BEFORE_NAME})
"""Keys with which a call may begin."""

_SPACE: Final = " \t\r\n"

_MIN_BEGIN: Final = 2
"""Characters of arguments with which a call begins: the brace, and a key's quote or the
closing brace.  A stream can't take back a call of ``{'a': 1}`` or ``{...}``."""


class JsonCallReader:
    """Reads a call that is a JSON object.

    Arguments are passed on as they come once the name is known, in the model's own
    JSON.  Arguments that are a string with JSON in it are decoded once, when they are
    complete; null means none.

    Args:
        names: The tools that may be called.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.is_done = False
        self.has_begun = False
        self._names = names
        self._expected = "brace"
        self._scanner: JsonScanner | None = None
        self._raw = ""
        self._key = ""
        self._keys: set[str] = set()
        self._name: str | None = None
        # Arguments that wait for the name.
        self._arguments = ""
        self._is_streamed = False

    def feed(self, text: str, start: int, parts: list[CallPart]) -> int:
        """Reads a piece; see :class:`CallReader`."""
        position = start
        while position < len(text) and not self.is_done:
            if self._scanner is None:
                self._read_structure(text[position])
                position += self._scanner is None
                continue
            try:
                end = self._scanner.feed(text, position)
            except NotJsonError as error:
                if self._is_streamed:
                    self._add_arguments(text[position : error.position], parts)
                raise NotACallError from error
            self._read_content(text[position:end], parts)
            position = end
        return position

    def _read_structure(self, character: str) -> None:
        """Reads a character between keys and values, or the first one of these."""
        if character in _SPACE:
            return
        if self._expected == "brace" and character == "{":
            self._expected = "key"
        elif self._expected == "key" and character == '"':
            self._begin()
        elif self._expected == "colon" and character == ":":
            self._expected = "value"
        elif self._expected == "value":
            self._begin()
            self._is_streamed = self._key in _ARGUMENTS and character == "{"
        elif self._expected == "comma or end" and character == ",":
            self._expected = "key"
        elif self._expected == "comma or end" and character == "}" and self.has_begun:
            self.is_done = True
        else:
            raise NotACallError

    def _begin(self) -> None:
        self._scanner = JsonScanner()
        self._raw = ""

    def _read_content(self, piece: str, parts: list[CallPart]) -> None:
        """Reads a piece of a key or a value."""
        assert self._scanner is not None
        if self._is_streamed:
            self._add_arguments(piece, parts)
        else:
            self._raw += piece
        if not self._scanner.is_done:
            return
        self._scanner = None
        if self._expected == "key":
            self._end_key(json.loads(self._raw))
            return
        if not self._is_streamed:
            self._end_value(parts)
        self._is_streamed = False
        self._expected = "comma or end"

    def _end_key(self, key: str) -> None:
        meaning = _ARGUMENTS[0] if key in _ARGUMENTS else key
        is_answer = self._name is None and key != _NAME and key not in _BEFORE_NAME
        if is_answer or meaning in self._keys:
            raise NotACallError
        self._keys.add(meaning)
        self._key = key
        self._expected = "colon"

    def _end_value(self, parts: list[CallPart]) -> None:
        if self._key == _NAME:
            name = json.loads(self._raw)
            if not isinstance(name, str) or name not in self._names:
                raise NotACallError
            self._name = name
            if self._arguments:
                self._add_arguments("", parts)
        elif self._key in _ARGUMENTS:
            self._add_arguments(_decoded(json.loads(self._raw)), parts)

    def _add_arguments(self, text: str, parts: list[CallPart]) -> None:
        self._arguments += text
        if self._name is None:
            return
        if not self.has_begun:
            if len(self._arguments.rstrip(_SPACE)) < _MIN_BEGIN:
                return
            self.has_begun = True
            parts.append(CallName(self._name))
        parts.append(CallArguments(self._arguments))
        self._arguments = ""


def _decoded(arguments: Any) -> str:
    """Returns arguments that are not an object as one."""
    if arguments is None:
        return "{}"
    if isinstance(arguments, str):
        text = arguments.strip(_SPACE)
        scanner = JsonScanner()
        try:
            is_whole = scanner.feed(text) == len(text) and scanner.is_done
        except NotJsonError:
            is_whole = False
        if is_whole and text.startswith("{"):
            return with_escaped_surrogates(text)
    raise NotACallError
