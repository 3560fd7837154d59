"""The index finds the longest of the latest places where a text's end occurred."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama.runtime.speculation.ngram_index import (
    CANDIDATES,
    LONGEST,
    NgramIndex,
)


def array(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int64)


def places(tokens: np.ndarray) -> list[tuple[int, int]]:
    """Returns all earlier places of the text's end, latest first, with lengths."""
    found = []
    for end in range(len(tokens) - 1, 0, -1):
        length = 0
        while (
            length < min(end, LONGEST)
            and tokens[end - 1 - length] == tokens[-1 - length]
        ):
            length += 1
        if length:
            found.append((end, length))
    return found


def longest(found: list[tuple[int, int]]) -> tuple[int, int]:
    """Returns the latest of the longest; ``max`` takes the first of equal ones.

    Only the latest places count, of pairs if there are any.
    """
    pairs = [each for each in found if each[1] > 1]
    latest = (pairs or found)[:CANDIDATES]
    return max(latest, key=lambda each: each[1], default=(0, 0))


def test_the_latest_of_the_longest_matches_counts() -> None:
    tokens = array(1, 2, 3, 9, 2, 3, 8, 1, 2, 3)
    assert NgramIndex(tokens).longest_match(tokens) == (3, 3)
    tokens = array(1, 2, 9, 1, 2, 8, 1, 2)
    assert NgramIndex(tokens).longest_match(tokens) == (5, 2)
    tokens = array(4, 2, 9, 3, 2, 8, 1, 2)
    assert NgramIndex(tokens).longest_match(tokens) == (5, 1)


@pytest.mark.parametrize("tokens", [array(1), array(1, 2), array(1, 2, 3, 4)])
def test_a_text_that_doesnt_repeat_has_no_match(tokens: np.ndarray) -> None:
    assert NgramIndex(tokens).longest_match(tokens) == (0, 0)


def test_a_match_may_overlap_the_end() -> None:
    tokens = array(7, 5, 5, 5)
    assert NgramIndex(tokens).longest_match(tokens) == (3, 2)


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    first=st.integers(1, 80),
    steps=st.lists(st.integers(1, 5), max_size=80),
)
def test_an_index_that_grows_finds_what_a_search_finds(
    tokens: list[int], first: int, steps: list[int]
) -> None:
    """Whatever part of the text is there at first, and however it grows."""
    text = np.array(tokens, np.int64)
    length = min(first, len(text))
    index = NgramIndex(text[:length])
    for step in [0, *steps]:
        length = min(length + step, len(text))
        index.grow(text[:length])
        found = index.longest_match(text[:length])
        assert found == longest(places(text[:length]))


def test_image_placeholders_are_tokens_like_others() -> None:
    tokens = array(128_256, 5, 6, 128_256, 5)
    assert NgramIndex(tokens).longest_match(tokens) == (2, 2)
