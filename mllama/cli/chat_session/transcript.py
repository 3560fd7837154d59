"""The messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mllama.cli.chat_session.pictures import Picture


@dataclass
class Transcript:
    """A conversation: the system prompt, and the messages after it.

    Attributes:
        system: The system prompt, if there is one.
        turns: The other messages, in OpenAI's form.
    """

    system: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Returns all messages."""
        if self.system is None:
            return list(self.turns)
        return [{"role": "system", "content": self.system}, *self.turns]

    @property
    def pictures(self) -> int:
        """Returns the number of pictures."""
        return sum(
            part["type"] == "image_url"
            for turn in self.turns
            if not isinstance(turn["content"], str)
            for part in turn["content"]
        )

    def add_question(self, text: str, pictures: Sequence[Picture]) -> None:
        """Adds a question, with its pictures before the text, which then sees them."""
        content: Any = text
        if pictures:
            parts = [picture.part for picture in pictures]
            content = [*parts, {"type": "text", "text": text}]
        self.turns.append({"role": "user", "content": content})

    def add_answer(self, text: str) -> None:
        """Adds an answer."""
        self.turns.append({"role": "assistant", "content": text})

    def clear(self) -> None:
        """Removes all messages but the system prompt."""
        self.turns.clear()
