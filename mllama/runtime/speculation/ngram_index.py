"""Finds where the last tokens of a text occurred before.

It is asked between the steps of a model, while the model's threads take all cores.  A
text has few places to compare, for which Python is faster than NumPy.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]

LONGEST: Final = 16
"""Tokens of a match that are compared: longer ones are no better."""

CANDIDATES: Final = 16
"""Latest places of a pair, or of a token, that are compared."""


class NgramIndex:
    """The places of all tokens, and pairs of tokens, in a text that grows.

    Those of the text at hand are sorted at once, and those of later tokens are noted
    one by one, so that neither a long prompt nor a long answer is ever searched.

    Args:
        tokens: The text so far.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._length = len(tokens)
        self._single = _Places(tokens)
        self._pairs = _Places(_pair(tokens[:-1], tokens[1:]))

    def grow(self, tokens: Tokens) -> None:
        """Notes new tokens.

        Args:
            tokens: The whole text, which begins with the text of the call before.
        """
        text = tokens.data
        for place in range(self._length, len(text)):
            self._single.add(text[place], place)
            self._pairs.add(_pair(text[place - 1], text[place]), place - 1)
        self._length = len(text)

    def longest_match(self, tokens: Tokens) -> tuple[int, int]:
        """Returns where the text's end occurred before, and the length of the match.

        Of equally long matches the latest one counts.

        Args:
            tokens: The text that is indexed.

        Returns:
            The position after the match, which is before the text's end, and the number
            of tokens that are equal, up to ``LONGEST``; 0 and 0 if there is none.
        """
        text = tokens.data
        end = len(text)
        ends: list[int] = []
        if end > 1:
            pair = _pair(text[end - 2], text[end - 1])
            ends = [place + 2 for place in self._pairs.latest(pair, end - 2)]
        if not ends:
            ends = [place + 1 for place in self._single.latest(text[end - 1], end - 1)]
        best, longest = 0, 0
        for place in ends:
            length = _match_length(text, place)
            if length > longest:
                best, longest = place, length
            if longest == LONGEST:
                break
        return best, longest


class _Places:
    """The places of values in a list that grows.

    Args:
        values: The list so far.
    """

    def __init__(self, values: Tokens) -> None:
        self._order = values.argsort(kind="stable").astype(np.int32)
        self._sorted = values[self._order].data
        self._later: dict[int, list[int]] = {}

    def add(self, value: int, place: int) -> None:
        """Adds a value to the end."""
        self._later.setdefault(value, []).append(place)

    def latest(self, value: int, before: int) -> list[int]:
        """Returns the latest places of a value, the latest first.

        Args:
            value: The value.
            before: The place of the last value of all, which doesn't count.
        """
        places = self._later.get(value, [])[-CANDIDATES - 1 :][::-1]
        if len(places) <= CANDIDATES:
            start = bisect_left(self._sorted, value)
            stop = bisect_right(self._sorted, value, start)
            first = max(start, stop - CANDIDATES - 1)
            places += self._order[first:stop][::-1].tolist()
        return [place for place in places if place < before][:CANDIDATES]


def _pair(first: Any, second: Any) -> Any:
    """Returns a number for two tokens, or for each two of two arrays."""
    return (first << 32) | second


def _match_length(text: memoryview, place: int) -> int:
    """Returns how many tokens before a place equal those at the text's end."""
    end = len(text)
    most = min(LONGEST, place)
    length = 0
    while length < most and text[place - 1 - length] == text[end - 1 - length]:
        length += 1
    return length
