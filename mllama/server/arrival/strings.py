"""The long strings of a body, with the memory that they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mllama.server.arrival.shared_memory import RequestMemory


class BodyStrings(Mapping[str, memoryview]):
    """Strings that were detached from a body, by the names that it has in their place.

    Args:
        strings: The strings, which keep the whole body in memory.
        memory: The request's share of the memory, for its images.
        text_bytes: Bytes of the body without the strings.
    """

    def __init__(
        self, strings: Mapping[str, memoryview], memory: RequestMemory, text_bytes: int
    ) -> None:
        self._strings = dict(strings)
        self._text_bytes = text_bytes
        self.memory = memory

    def __getitem__(self, name: str) -> memoryview:
        return self._strings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._strings)

    def __len__(self) -> int:
        return len(self._strings)

    def drop(self) -> None:
        """Frees the strings, which are not needed any more."""
        self._strings.clear()
        self.memory.shrink_body(self._text_bytes)
