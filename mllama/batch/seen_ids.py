"""Which lines have been answered, in memory that doesn't grow with their number."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final, Literal

_SCHEMA: Final = (
    "CREATE TABLE seen (id BLOB PRIMARY KEY, answers INT NOT NULL, lines INT NOT NULL)"
    " WITHOUT ROWID"
)
_ADD_ANSWER: Final = (
    "INSERT INTO seen VALUES (?, 1, 0) "
    "ON CONFLICT (id) DO UPDATE SET answers = answers + 1"
)
_ADD_LINE: Final = (
    "INSERT INTO seen VALUES (?, 0, 1) ON CONFLICT (id) DO UPDATE "
    "SET lines = lines + 1 RETURNING answers, lines"
)

_ANSWERS: Final = "SELECT answers FROM seen WHERE id = ?"

Verdict = Literal["new", "answered", "repeated"]


class SeenIds:
    """The ids of answers and of lines, in a file that only this object has.

    SQLite deletes the file when it is closed, or when the process dies.
    """

    def __init__(self) -> None:
        # One thread at a time uses it: first that of the output, then the reader's.
        self._ids = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("PRAGMA synchronous = OFF")
        self._ids.execute(_SCHEMA)
        self._ids.execute("BEGIN")

    def add_answer(self, identity: str) -> None:
        """Notes an answer of an earlier run."""
        self._ids.execute(_ADD_ANSWER, (_digest(identity),))

    def add_line(self, identity: str, old_identity: str | None = None) -> Verdict:
        """Notes a line of the input, and says whether it needs an answer.

        The first line with an id needs an answer, and each further one an error, so
        that these errors say nothing about the first line.

        Args:
            identity: What the line is known by.
            old_identity: What an answer may know it by that an older version wrote.

        Returns:
            ``answered`` if an earlier run has answered it, ``repeated`` if another line
            of the input has the same id, and ``new`` for others.
        """
        row = self._ids.execute(_ADD_LINE, (_digest(identity),)).fetchone()
        answers, lines = row
        if lines == 1:
            if not answers and old_identity not in (None, identity):
                answers = self._answers(old_identity)
            return "answered" if answers else "new"
        errors = self._answers(repeat_of(identity))
        return "answered" if lines <= max(answers, 1) + errors else "repeated"

    def _answers(self, identity: str) -> int:
        row = self._ids.execute(_ANSWERS, (_digest(identity),)).fetchone()
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Frees the file."""
        self._ids.close()


def repeat_of(identity: str) -> str:
    """Returns what the errors of lines are known by that repeat another one's id."""
    return f"repeat of {identity}"


def _digest(identity: str) -> bytes:
    content = identity.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()
