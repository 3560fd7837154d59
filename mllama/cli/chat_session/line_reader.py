'''Reads lines from a terminal: editing, history, completion, and several lines in one.

Enter sends, Alt+Enter begins another line, and a text that begins with """ goes on
until the next """.
'''

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import (
    CompleteEvent,
    Completer,
    Completion,
    PathCompleter,
)
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output

from mllama.cli.chat_session.commands import COMMANDS
from mllama.cli.chat_session.history import LineHistory
from mllama.cli.chat_session.settings import CHAT_SETTINGS

BLOCK: Final = '"""'
"""Begins and ends a text of several lines."""


class LineReader:
    """Reads what is typed into a terminal.

    Args:
        stream: The terminal to write to.
        history_file: The file of the history; None keeps it in memory.
        terminal: Replaces stdin and the stream in tests.
    """

    def __init__(
        self,
        stream: TextIO,
        history_file: Path | None,
        terminal: tuple[Input, Output] | None = None,
    ) -> None:
        keyboard, screen = terminal or (None, create_output(stdout=stream))
        self._session: PromptSession[str] = PromptSession(
            history=LineHistory(history_file) if history_file else InMemoryHistory(),
            multiline=True,
            prompt_continuation="... ",
            key_bindings=_key_bindings(),
            completer=ChatCompleter(),
            complete_while_typing=False,
            input=keyboard,
            output=screen,
        )

    def read(self) -> str:
        """Waits for a text and returns it.

        Raises:
            KeyboardInterrupt: If Ctrl-C is pressed in an empty line.
            EOFError: If Ctrl-D is pressed in an empty line, or the terminal closes.
        """
        return self._session.prompt(">>> ")


def is_block(text: str) -> bool:
    """Returns True for a text that begins a block, complete or not."""
    return text.lstrip().startswith(BLOCK)


def block_content(text: str) -> str:
    """Returns the text of a block, without its quotes."""
    return text.strip().removeprefix(BLOCK).removesuffix(BLOCK).strip("\n")


def _is_open(text: str) -> bool:
    stripped = text.strip()
    is_closed = len(stripped) >= 2 * len(BLOCK) and stripped.endswith(BLOCK)
    return is_block(text) and not is_closed


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if _is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    def clear_or_interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return bindings


class ChatCompleter(Completer):
    """Completes commands, names of settings, and paths."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Yields what may follow before the cursor."""
        before = document.text_before_cursor
        command, space, rest = before.partition(" ")
        word = before.rpartition(" ")[2]
        if not space and command.startswith("/") and "/" not in command[1:]:
            names: Iterable[str] = (f"/{each.name}" for each in COMMANDS)
        elif command == "/set" and " " not in rest:
            names = [*CHAT_SETTINGS, "verbose"]
        elif "/" in word or command in ("/image", "/save", "/load"):
            yield from self._paths.get_completions(Document(word), complete_event)
            return
        else:
            return
        for name in names:
            if name.startswith(word):
                yield Completion(name, -len(word))
