"""Reads lines and answers them, until the user leaves."""

from __future__ import annotations

from typing import Protocol

from mllama.cli.chat_session.chat import Chat
from mllama.cli.chat_session.commands import Leave, run_command
from mllama.cli.chat_session.line_reader import block_content, is_block
from mllama.errors import EngineError, MllamaError


class Lines(Protocol):
    """Where lines come from."""

    def read(self) -> str:
        """Returns the next line; KeyboardInterrupt and EOFError as of a terminal."""
        ...


def converse(chat: Chat, lines: Lines, first: str | None = None) -> None:
    """Holds a chat.  An error ends a turn and not the chat.

    Args:
        chat: The chat.
        lines: The user's lines.
        first: A line before those.
    """
    line = first
    while True:
        try:
            text = lines.read() if line is None else line
        except KeyboardInterrupt:
            chat.note("Ctrl-D or /bye leaves.")
            continue
        except EOFError:
            return
        line = None
        try:
            _take(chat, text)
        except Leave:
            return
        except KeyboardInterrupt:
            chat.note("(stopped)")
        except (MllamaError, EngineError, OSError) as error:
            chat.note(f"error: {' '.join(str(error).split())}")


def _take(chat: Chat, text: str) -> None:
    if is_block(text):
        content = block_content(text)
        if content:
            chat.say(content)
        return
    text = text.strip()
    if text and not run_command(chat, text):
        chat.say(text)
