"""Gathers the calls of a whole answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mllama.requests.events import (
    ToolCallArguments,
    ToolCallEvent,
    ToolCallStarted,
    ToolCallWithdrawn,
)


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool.

    Attributes:
        id: Names the call, so that a result can be for it.
        name: The tool.
        arguments: The arguments, a JSON object as text.  It is incomplete if a limit
            ended the answer within it.
    """

    id: str
    name: str
    arguments: str

    def message(self) -> dict[str, Any]:
        """Returns the call as it stands in a message."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


class ToolCallCollector:
    """The calls of one answer, of its events.

    Attributes:
        calls: The calls so far.
    """

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []

    def add(self, event: ToolCallEvent) -> None:
        """Adds an event of the answer."""
        if isinstance(event, ToolCallStarted):
            self.calls.append(ToolCall(event.id, event.name, ""))
        elif isinstance(event, ToolCallArguments):
            call = self.calls[-1]
            self.calls[-1] = replace(call, arguments=call.arguments + event.text)
        elif isinstance(event, ToolCallWithdrawn):
            self.calls.pop()
