"""Prompt lookup guesses what followed at a like place, of each request by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from mllama.runtime.speculation.prompt_lookup import PromptLookup


def context(name: str, *tokens: int) -> Any:
    all_tokens = np.array(tokens, np.int64)
    return SimpleNamespace(request_id=name, tokens=SimpleNamespace(all=all_tokens))


def guesses(lookup: PromptLookup, *contexts: Any, limit: int = 4) -> list[list[int]]:
    found = lookup.propose(contexts, [limit] * len(contexts))
    assert all(each.dtype == np.int64 for each in found)
    return [each.tolist() for each in found]


def test_what_followed_is_guessed() -> None:
    repeated = context("a", 1, 2, 3, 4, 5, 6, 1, 2, 3)
    assert guesses(PromptLookup(), repeated, context("b", 1, 2, 3)) == [[4, 5, 6], []]


def test_a_period_goes_on() -> None:
    assert guesses(PromptLookup(), context("a", 9, 7, 8, 7, 8, 7)) == [[8, 7, 8]]


def test_short_matches_are_followed_by_few_guesses() -> None:
    text = context("a", 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2)
    assert guesses(PromptLookup(), text, limit=8) == [[3, 4]]


def test_limits_hold() -> None:
    lookup = PromptLookup()
    text = context("a", 1, 2, 3, 4, 1, 2)
    assert guesses(lookup, text, limit=1) == [[3]]
    assert guesses(lookup, text, limit=0) == [[]]
    assert guesses(lookup, text, limit=3) == [[3, 4]]


def test_answers_grow_between_calls_by_any_number_of_tokens() -> None:
    lookup = PromptLookup()
    tokens = [1, 2, 3, 9]
    assert guesses(lookup, context("a", *tokens)) == [[]]
    tokens += [1]
    assert guesses(lookup, context("a", *tokens)) == [[2]]
    lookup.propose([context("a", *tokens)], [0])
    tokens += [2]
    assert guesses(lookup, context("a", *tokens)) == [[3, 9]]
    # The same tokens again, as after a step that was prepared in vain.
    assert guesses(lookup, context("a", *tokens)) == [[3, 9]]


def test_a_request_that_is_released_is_forgotten() -> None:
    lookup = PromptLookup()
    lookup.propose([context("a", 1, 2, 3)], [4])
    lookup.release("a")
    lookup.release("a")
    assert not lookup._indexes
    assert guesses(lookup, context("a", 4, 5, 6, 4, 5)) == [[6, 4]]
