"""The lines that were typed, which only their user may read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prompt_toolkit.history import History

MAX_LINES: Final = 1000
"""Lines that are kept from one chat to the next."""

MAX_LENGTH: Final = 10_000
"""The longest line that is kept, in characters: not a pasted document."""


def history_file() -> Path:
    """Returns the file of the history: ``~/.local/state/mllama/chat_history``."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "mllama" / "chat_history"


class LineHistory(History):
    """Lines in a file, one JSON string a line, with mode 0600.

    A file that can't be read or written only makes the history shorter.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def load_history_strings(self) -> Iterable[str]:
        """Returns the lines of earlier chats, the newest first."""
        try:
            text = self._file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        entries = text.splitlines()
        if len(entries) > 2 * MAX_LINES:
            self._write(
                "".join(f"{each}\n" for each in entries[-MAX_LINES:]), anew=True
            )
        lines = [_line(entry) for entry in entries[-MAX_LINES:]]
        return [line for line in reversed(lines) if line]

    def store_string(self, string: str) -> None:
        """Adds a line."""
        if len(string) <= MAX_LENGTH:
            self._write(f"{json.dumps(string)}\n")

    def _write(self, text: str, *, anew: bool = False) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            way = os.O_TRUNC if anew else os.O_APPEND
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | way, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, 0o600)
                file.write(text)
        except OSError:
            pass  # A chat in a read-only home goes on without.


def _line(entry: str) -> str:
    try:
        line = json.loads(entry)
    except ValueError:
        return ""
    return line if isinstance(line, str) else ""
