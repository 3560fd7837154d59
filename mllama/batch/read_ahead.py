"""Reads ahead, so that lines about the same picture are asked one after another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from mllama.batch.lines import BatchLine

MAX_LINES: Final = 10_000
MAX_BYTES: Final = 128 * 2**20
"""What is read ahead at most: lines, and bytes of lines.  One line may have more."""


class ReadAhead:
    """Lines that have been read and not asked, grouped by their pictures.

    A thread puts lines in, and waits while there are too many.  Tasks of an event loop
    take them: all of the first line's picture that are there, then those of the line
    that is the first now.

    Args:
        loop: The loop of the tasks.
        max_lines: The most lines.
        max_bytes: The most bytes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._loop = loop
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._groups: OrderedDict[object, deque[BatchLine]] = OrderedDict()
        self._lines = self._bytes = 0
        self._current: object = None
        self._is_over = False
        self._room = threading.Condition()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def put(self, line: BatchLine) -> bool:
        """Adds a line, once there is room.

        Returns:
            False if no more lines are taken.
        """
        with self._room:
            self._room.wait_for(lambda: self._is_over or self._has_room(line))
            if self._is_over:
                return False
            key = line.number if line.picture is None else line.picture
            self._groups.setdefault(key, deque()).append(line)
            self._lines += 1
            self._bytes += line.size
            if self._waiting:
                self._call_soon(self._wake)
        return True

    def _call_soon(self, wake: Callable[[], None]) -> None:
        # A thread that waits for its input may outlive the loop, and then wakes nobody.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(wake)

    def _has_room(self, line: BatchLine) -> bool:
        return self._lines == 0 or (
            self._lines < self._max_lines and self._bytes + line.size <= self._max_bytes
        )

    def end(self) -> None:
        """Says that no more lines come.  What is there can still be taken."""
        with self._room:
            self._is_over = True
            self._room.notify_all()
            self._call_soon(self._wake_all)

    def clear(self) -> None:
        """Ends, and forgets what has not been taken."""
        with self._room:
            self._groups.clear()
            self._lines = self._bytes = 0
        self.end()

    async def take(self) -> BatchLine | None:
        """Returns the next line, or None if there are no more."""
        while True:
            with self._room:
                if self._groups:
                    return self._next()
                if self._is_over:
                    return None
                future = self._loop.create_future()
                self._waiting.append(future)
            await future

    def _next(self) -> BatchLine:
        if self._current not in self._groups:
            self._current = next(iter(self._groups))
        group = self._groups[self._current]
        line = group.popleft()
        if not group:
            del self._groups[self._current]
        self._lines -= 1
        self._bytes -= line.size
        # A full window is filled again in one go, not line by line.
        if self._lines == 0 or (
            self._lines * 2 <= self._max_lines and self._bytes * 2 <= self._max_bytes
        ):
            self._room.notify_all()
        return line

    def _wake(self) -> None:
        with self._room:
            count = min(len(self._waiting), self._lines)
            for _ in range(count):
                self._set(self._waiting.popleft())

    def _wake_all(self) -> None:
        with self._room:
            while self._waiting:
                self._set(self._waiting.popleft())

    def _set(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)
