"""What a reader of one call reports, whichever form the call has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class NotACallError(ValueError):
    """A text that began as a call turns out to be none."""


@dataclass(frozen=True)
class CallName:
    """The name of a call, which comes before its arguments."""

    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of a call's arguments, which are a JSON object as text."""

    text: str


CallPart = CallName | CallArguments


class CallReader(Protocol):
    """Reads one call, piece by piece.

    Attributes:
        is_done: Whether the call is complete.
        has_begun: Whether the name has been reported.
    """

    is_done: bool
    has_begun: bool

    def feed(self, text: str, start: int, parts: list[CallPart]) -> int:
        """Reads a piece, up to the end of the call.

        Args:
            text: The piece.
            start: Where to begin in it.
            parts: What is certain now is added, also before an error.

        Returns:
            The position after the last character of the call.

        Raises:
            NotACallError: If the text is no call.
        """
        ...


def with_escaped_surrogates(text: str) -> str:
    """Returns JSON without halves of surrogate pairs, which no encoding has."""
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
