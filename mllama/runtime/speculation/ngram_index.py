"""Finds where the last tokens of a text occurred before."""

from __future__ import annotations

from typing import Final

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
        self._grams = [_Places(tokens), _Places(_pairs(tokens))]

    def grow(self, tokens: Tokens) -> None:
        """Notes new tokens.

        Args:
            tokens: The whole text, which begins with the text of the call before.
        """
        start = self._length
        single, pairs = self._grams
        single.add(tokens[start:], start)
        pairs.add(_pairs(tokens[start - 1 :]), start - 1)
        self._length = len(tokens)

    def longest_match(self, tokens: Tokens) -> tuple[int, int]:
        """Returns where the text's end occurred before, and the length of the match.

        Of equally long matches the latest one counts.

        Args:
            tokens: The text that is indexed.

        Returns:
            The position after the match, which is before the text's end, and the number
            of tokens that are equal, up to ``LONGEST``; 0 and 0 if there is none.
        """
        single, pairs = self._grams
        end = len(tokens)
        ends = np.empty(0, np.int64)
        if end > 1:
            ends = pairs.latest(int(_pairs(tokens[-2:])[0]), end - 2) + 2
        if not ends.size:
            ends = single.latest(int(tokens[-1]), end - 1) + 1
        if not ends.size:
            return 0, 0
        lengths = _match_lengths(tokens, ends)
        best = int(lengths.argmax())
        return int(ends[best]), int(lengths[best])


class _Places:
    """The places of values in a list that grows.

    Args:
        values: The list so far.
    """

    def __init__(self, values: Tokens) -> None:
        self._order = values.argsort(kind="stable").astype(np.int32)
        self._sorted = values[self._order]
        self._later: dict[int, list[int]] = {}

    def add(self, values: Tokens, start: int) -> None:
        """Adds values to the end.

        Args:
            values: The values.
            start: The place of the first.
        """
        for place, value in enumerate(values.tolist(), start):
            self._later.setdefault(value, []).append(place)

    def latest(self, value: int, before: int) -> Tokens:
        """Returns the latest places of a value, the latest first.

        Args:
            value: The value.
            before: The place of the last value of all, which doesn't count.
        """
        places = self._later.get(value, [])[-CANDIDATES - 1 :][::-1]
        if len(places) <= CANDIDATES:
            start, stop = (
                int(np.searchsorted(self._sorted, value, side))
                for side in ("left", "right")
            )
            first = max(start, stop - CANDIDATES - 1)
            places += self._order[first:stop][::-1].tolist()
        found = [place for place in places if place < before]
        return np.array(found[:CANDIDATES], np.int64)


def _pairs(tokens: Tokens) -> Tokens:
    """Returns a number for each token and the one after it, ``[tokens - 1]``."""
    return (tokens[:-1] << 32) | tokens[1:]


def _match_lengths(tokens: Tokens, ends: Tokens) -> Tokens:
    """Returns how many tokens before each end equal those at the text's end."""
    back = np.arange(1, min(LONGEST, len(tokens)) + 1)
    places = ends[:, None] - back
    # Before the text's begin, a negative index would read its end.
    equal = (tokens[np.maximum(places, 0)] == tokens[-back]) & (places >= 0)
    lengths: Tokens = np.where(equal.all(axis=1), back.size, equal.argmin(axis=1))
    return lengths
