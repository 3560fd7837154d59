"""Types into ``mllama chat`` in a pseudo-terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect

PROMPT = ">>>"
CTRL_C, CTRL_D, ALT_ENTER = "\x03", "\x04", "\x1b\r"

LINE_READ = "\x1b[?2004l"
"""Written when a line has been read: behind its echo, after which it is drawn again."""

SECONDS = 60
"""Limit of each wait."""


class Terminal:
    """A running chat."""

    def __init__(self, child: Any) -> None:
        self.child = child

    def wait(self, text: str) -> str:
        """Waits until a text appears, and returns what is before it."""
        self.child.expect_exact(text)
        return str(self.child.before)

    def say(self, line: str) -> str:
        """Types a line and returns what is written until the next prompt."""
        self.child.send(f"{line}\r")
        self.wait(LINE_READ)
        return self.wait(PROMPT)

    def interrupt(self, after: str) -> str:
        """Presses Ctrl-C after a text, and waits for the next prompt."""
        self.wait(after)
        self.child.send(CTRL_C)
        return self.wait(PROMPT)

    def leave(self) -> int:
        """Presses Ctrl-D, and returns the exit code."""
        self.child.send(CTRL_D)
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus)


@contextmanager
def chatting(
    folder: Path, *options: str, start_seconds: float = SECONDS
) -> Iterator[Terminal]:
    """Yields a chat that waits for its first line."""
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(folder / "state"),
        "TERM": "xterm",
        # Nobody answers questions about the cursor's place.
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    for name in ("COLORTERM", "TERM_PROGRAM", "KITTY_WINDOW_ID"):
        environment.pop(name, None)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "mllama", "chat", *options],
        cwd=str(folder),
        env=environment,
        encoding="utf-8",
        timeout=SECONDS,
        dimensions=(50, 200),
    )
    try:
        child.expect_exact(PROMPT, timeout=start_seconds)
        yield Terminal(child)
    finally:
        child.close(force=True)
