"""Tells calls of tools from text, in the forms of Llama 3.1 and 3.2."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import replace
from typing import Final, Literal

from mllama.requests.events import (
    FinishReason,
    ToolCallArguments,
    ToolCallEnded,
    ToolCallEvent,
    ToolCallStarted,
    ToolCallWithdrawn,
)
from mllama.requests.tool_calls.call_reader import (
    CallName,
    CallPart,
    CallReader,
    NotACallError,
)
from mllama.requests.tool_calls.json_form import JsonCallReader
from mllama.requests.tool_calls.pythonic_form import PythonicCallReader

ToolForm = Literal["auto", "llama3_json", "pythonic"]
"""The form of calls; ``auto`` is either."""

Part = str | ToolCallEvent

_PYTHON_TAG: Final = "<|python_tag|>"
_SPACE: Final = " \t\r\n"
_SEPARATORS: Final = _SPACE + ";,"
"""What models write between two calls."""


class ToolCallParser:
    """Tells calls of tools from text, piece by piece.

    An answer has calls if it begins with one, after white space or Llama's token
    ``<|python_tag|>``:

    - ``{"name": ..., "parameters": {...}}``, or several, separated by white space,
      semicolons or commas, or in a list;
    - ``[f(a=1, b="x"), g()]``.

    Everything else is text, also after the calls.  A call is reported as soon as its
    name is that of a tool and its arguments begin.  Whether it is complete shows later:
    if it isn't, it is withdrawn and becomes text.  How the text is cut into pieces
    makes no difference beyond the size of the pieces that are returned.

    Args:
        names: The tools that the model may call; without one, all is text.
        form: The form of calls.
        choice: The answer, for events.
        is_single: Whether the first call ends the answer; what follows is dropped.

    Attributes:
        calls: Number of complete calls.
        is_single: Whether the first call ends the answer.
    """

    def __init__(
        self,
        names: Collection[str] = (),
        form: ToolForm = "auto",
        choice: int = 0,
        *,
        is_single: bool = False,
    ) -> None:
        self.calls = 0
        self.is_single = is_single
        self._names = frozenset(names)
        self._form = form
        self._choice = choice
        self._state: Literal["start", "list", "between", "text"] = (
            "start" if names else "text"
        )
        self._list: Literal["", "json", "pythonic"] = ""
        self._tag = ""
        self._reader: CallReader | None = None
        # Text that is neither passed on nor of a complete call.
        self._held: list[str] = []

    @property
    def _is_between(self) -> bool:
        """Whether the last thing so far is a complete call."""
        is_between = self._state == "between" and self._reader is None
        return is_between and not self._tag

    @property
    def is_finished(self) -> bool:
        """Returns True if the answer ends here, with its only call."""
        return self.is_single and self.calls > 0

    def push(self, text: str) -> list[Part]:
        """Adds a piece of text; returns text and events that are certain now."""
        parts: list[Part] = []
        position = 0
        while position < len(text) and not self.is_finished:
            if self._state == "text":
                add_part(parts, text[position:])
                break
            if self._reader is not None:
                position = self._read_call(self._reader, text, position, parts)
            else:
                position += self._read_outside(text[position], parts)
        return parts

    def finish(self, *, is_cut: bool = False) -> list[Part]:
        """Returns the rest, after the last piece.

        Args:
            is_cut: Whether a limit ended the answer.  A call that has begun stays one
                then, with incomplete arguments.
        """
        parts: list[Part] = []
        stays = is_cut and self._reader is not None and self._reader.has_begun
        if self._state != "text" and not self._is_between and not stays:
            self._give_up(parts)
        return parts

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """Returns why an answer has ended, after :meth:`finish`.

        An answer with calls has ended to have them made, unless a limit has cut it
        within a call or a text.

        Args:
            reason: Why it has ended, whatever it contains.
        """
        is_whole = reason == "stop" or self._is_between
        return "tool_calls" if self.calls and is_whole else reason

    def _read_outside(self, character: str, parts: list[Part]) -> bool:
        """Reads a character outside of calls.

        Returns:
            False if it is the first one of a call or of text.
        """
        if self._is_separator(character):
            self._held.append(character)
            return True
        if self._state == "between" and self._list and character == "]":
            self._list = ""
            self._held.clear()
            return True
        self._reader = self._new_reader(character)
        if self._reader is None:
            self._give_up(parts)
        return False

    def _is_separator(self, character: str) -> bool:
        if self._tag or (character == "<" and self._state != "list"):
            self._tag += character
            is_tag = _PYTHON_TAG.startswith(self._tag)
            if self._tag == _PYTHON_TAG:
                self._tag = ""
            return is_tag
        if self._state == "start" and character == "[":
            self._state = "list"
            return True
        return character in (_SEPARATORS if self._state == "between" else _SPACE)

    def _new_reader(self, character: str) -> CallReader | None:
        """Returns a reader of the call that begins with a character, if one does."""
        if self._tag:
            return None
        is_in_list = self._state == "list"
        if character == "{" and self._form != "pythonic" and self._list != "pythonic":
            self._list = "json" if is_in_list else self._list
            return JsonCallReader(self._names)
        is_name = character.isalpha() or character == "_"
        if is_name and self._form != "llama3_json":
            self._list = "pythonic" if is_in_list else self._list
            if self._list == "pythonic":
                return PythonicCallReader(self._names)
        return None

    def _read_call(
        self, reader: CallReader, text: str, position: int, parts: list[Part]
    ) -> int:
        """Reads a piece of a call; returns the position after it."""
        found: list[CallPart] = []
        try:
            end = reader.feed(text, position, found)
        except NotACallError:
            self._report(found, parts)
            self._give_up(parts)
            return position
        self._report(found, parts)
        self._held.append(text[position:end])
        if reader.is_done:
            parts.append(ToolCallEnded(self._choice, self.calls))
            self.calls += 1
            self._reader, self._state = None, "between"
            self._held.clear()
        return end

    def _report(self, found: list[CallPart], parts: list[Part]) -> None:
        for part in found:
            if isinstance(part, CallName):
                identity = f"call_{secrets.token_hex(12)}"
                parts.append(
                    ToolCallStarted(self._choice, self.calls, identity, part.name)
                )
            else:
                add_part(parts, ToolCallArguments(self._choice, self.calls, part.text))

    def _give_up(self, parts: list[Part]) -> None:
        """Makes text of what is held back, and of all that follows."""
        if self._reader is not None and self._reader.has_begun:
            parts.append(ToolCallWithdrawn(self._choice, self.calls))
        add_part(parts, "".join(self._held))
        self._held.clear()
        self._reader, self._state = None, "text"


def add_part(parts: list[Part], part: Part) -> None:
    """Adds a part; text and arguments are joined with those just before."""
    if not (part if isinstance(part, str) else getattr(part, "text", "event")):
        return
    last = parts[-1] if parts else None
    if isinstance(part, str) and isinstance(last, str):
        parts[-1] = last + part
    elif isinstance(part, ToolCallArguments) and isinstance(last, ToolCallArguments):
        parts[-1] = replace(last, text=last.text + part.text)
    else:
        parts.append(part)
