"""Calls of tools in the text of an answer, in the form of Llama 3.1 and 3.2."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

_DECODER: Final = json.JSONDecoder()

_SEPARATORS: Final = " \t\r\n;,"
"""What models write between two calls."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        id: Names the call, so that a result can be for it.
        name: The tool.
        arguments: The arguments, a JSON object as text.
    """

    id: str
    name: str
    arguments: str


class ToolCallParser:
    """Tells calls of tools from text, piece by piece.

    An answer that begins as a JSON object is held back until its end: it is either one
    call or several, ``{"name": ..., "parameters": {...}}``, or text.

    Args:
        names: The tools that the model may call; without one, all is text.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = names
        self._held = ""
        self._is_text = not names

    def push(self, text: str) -> str:
        """Adds text and returns what is now certain to be text."""
        if self._is_text:
            return text
        self._held += text
        start = self._held.lstrip()
        if not start or start.startswith("{"):
            return ""
        self._is_text = True
        text, self._held = self._held, ""
        return text

    def finish(self) -> tuple[str, list[ToolCall]]:
        """Returns the text that was held back, or the calls in it."""
        calls = self._calls()
        text = "" if calls else self._held
        self._held = ""
        return text, calls

    def _calls(self) -> list[ToolCall]:
        rest, calls = self._held.strip(_SEPARATORS), []
        while rest:
            try:
                value, end = _DECODER.raw_decode(rest)
            except (ValueError, RecursionError):
                return []
            call = self._call(value)
            if call is None:
                return []
            calls.append(call)
            rest = rest[end:].lstrip(_SEPARATORS)
        return calls

    def _call(self, value: Any) -> ToolCall | None:
        if not isinstance(value, dict):
            return None
        name = value.get("name")
        arguments = value.get("parameters", value.get("arguments"))
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        if name not in self._names:
            return None
        return ToolCall(f"call_{secrets.token_hex(12)}", name, json.dumps(arguments))
