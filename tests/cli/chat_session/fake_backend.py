"""A backend that answers with given pieces."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from typing import Any

from mllama.cli.chat_session.backend import AnswerEnd
from mllama.cli.chat_session.chat import Chat
from mllama.cli.chat_session.settings import AnswerSettings


class FakeBackend:
    """Answers each question with the next script: pieces, or an error to raise."""

    name = "fake"

    def __init__(self, *scripts: Sequence[Any]) -> None:
        self.scripts = list(scripts)
        self.asked: list[list[dict[str, Any]]] = []
        self.fields: list[dict[str, Any]] = []

    def answer(
        self, messages: list[dict[str, Any]], settings: AnswerSettings
    ) -> Generator[str | AnswerEnd, None, None]:
        self.asked.append(messages)
        self.fields.append(settings.engine_fields)
        script = self.scripts.pop(0) if self.scripts else ("yes", AnswerEnd("stop"))
        for each in script:
            if isinstance(each, BaseException):
                raise each
            yield each


def chat_with(*scripts: Sequence[Any]) -> tuple[Chat, FakeBackend, io.StringIO]:
    """Returns a chat with a fake backend, and what it writes."""
    backend, written = FakeBackend(*scripts), io.StringIO()
    return Chat(backend, AnswerSettings({}), written, written), backend, written
