"""Draft guesses: what is computed when, for whom, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from mllama.runtime.speculation.draft_proposer import DraftProposer

from .draft_models import VOCABULARY, CountingModel


class Tokens:
    def __init__(self, tokens: Sequence[int]) -> None:
        self.all = np.array(tokens, np.int64)

    def __len__(self) -> int:
        return len(self.all)


def request(name: str, *tokens: int, ends: set[int] = frozenset()) -> Any:
    return SimpleNamespace(
        request_id=name,
        tokens=Tokens(tokens),
        eos_tracker=SimpleNamespace(eos_token_ids=set(ends)),
    )


def said_after(*tokens: int, count: int) -> list[int]:
    """Returns what the model says next."""
    so_far = list(tokens)
    for _ in range(count):
        so_far.append((sum(so_far) + 1) % VOCABULARY)
    return so_far[len(tokens) :]


def proposed(proposer: DraftProposer, requests: list[Any], *limits: int) -> list[Any]:
    return [each.tolist() for each in proposer.propose(requests, limits)]


def test_a_batch_is_guessed_for_together() -> None:
    model = CountingModel()
    found = proposed(
        DraftProposer(model),
        [request("a", 1, 2, 3), request("b", 4), request("c", 5, 6)],
        3,
        0,
        1,
    )
    assert found == [said_after(1, 2, 3, count=3), [], said_after(5, 6, count=1)]
    # Both prompts, then each further guess of the one that wants more.
    assert model.steps == [[2, 3], [1], [1]]


def test_only_new_tokens_are_computed() -> None:
    model = CountingModel()
    proposer = DraftProposer(model)
    (guesses,) = proposed(proposer, [request("a", 1, 2, 3)], 3)
    model.steps.clear()
    # All three were right, and another token follows: the last guess is new too.
    truth = (1, 2, 3, *guesses, 50)
    (after,) = proposed(proposer, [request("a", *truth)], 2)
    assert after == said_after(*truth, count=2)
    assert model.steps == [[2], [1]]


def test_wrong_guesses_leave_no_trace() -> None:
    model = CountingModel()
    proposer = DraftProposer(model)
    (guesses,) = proposed(proposer, [request("a", 1, 2, 3)], 4)
    model.steps.clear()
    truth = (1, 2, 3, guesses[0], guesses[1] ^ 1)
    assert proposed(proposer, [request("a", *truth)], 2) == [
        said_after(*truth, count=2)
    ]
    assert model.steps == [[1], [1]]


def test_the_same_tokens_give_the_same_guesses() -> None:
    proposer = DraftProposer(CountingModel())
    once = proposed(proposer, [request("a", 1, 2)], 3)
    assert proposed(proposer, [request("a", 1, 2)], 3) == once


def test_images_are_left_out() -> None:
    proposer = DraftProposer(CountingModel())
    tokens = (1, VOCABULARY, VOCABULARY + 3, 2)
    assert proposed(proposer, [request("a", *tokens)], 2) == [said_after(1, 2, count=2)]
    assert proposed(proposer, [request("b", VOCABULARY)], 2) == [[]]


def test_nothing_is_guessed_after_an_end_token() -> None:
    (first, second, *_) = said_after(1, 2, count=3)
    found = proposed(
        DraftProposer(CountingModel()), [request("a", 1, 2, ends={second})], 5
    )
    assert found == [[first, second]]


def test_a_long_prompt_takes_several_calls() -> None:
    model = CountingModel()
    proposer = DraftProposer(model, prefill_tokens=8)
    long, short = range(20), (1, 2)
    batch = [request("long", *long), request("short", *short)]
    first = said_after(*short, count=1)
    assert proposed(proposer, batch, 2, 1) == [[], first]
    assert model.steps == [[2, 6]]
    assert proposed(proposer, batch, 2, 1) == [[], first]
    assert proposed(proposer, batch, 2, 1) == [said_after(*long, count=2), first]
    assert model.steps[1:] == [[1, 7], [1, 7], [1]]


def test_a_request_without_room_is_not_guessed_for() -> None:
    model = CountingModel(pages=2)
    proposer = DraftProposer(model)
    batch = [request("a", *range(30)), request("b", 1)]
    assert proposed(proposer, batch, 2, 2) == [[], said_after(1, count=2)]


def test_a_request_whose_pages_were_taken_is_computed_again() -> None:
    model = CountingModel(pages=2)
    proposer = DraftProposer(model)
    first, second = request("a", *range(15)), request("b", *range(3, 18))
    expected = [said_after(*range(15), count=2)]
    assert proposed(proposer, [first], 2) == expected
    assert proposed(proposer, [second], 2) == [said_after(*range(3, 18), count=2)]
    model.steps.clear()
    assert proposed(proposer, [first], 2) == expected
    assert model.steps == [[15], [1]]


def test_a_released_request_frees_its_pages() -> None:
    model = CountingModel(pages=2)
    proposer = DraftProposer(model)
    proposed(proposer, [request("a", *range(15))], 2)
    proposer.release("a")
    proposer.release("a")
    assert model.cache.num_free == 2


def test_guesses_end_where_the_models_context_does() -> None:
    proposer = DraftProposer(CountingModel(max_length=4))
    assert proposed(proposer, [request("a", 1, 2, 3)], 5) == [
        said_after(1, 2, 3, count=2)
    ]
    assert proposed(proposer, [request("a", 1, 2, 3, 4)], 5) == [
        said_after(1, 2, 3, 4, count=1)
    ]
    assert proposed(proposer, [request("a", 1, 2, 3, 4, 5)], 5) == [[]]


def most(proposer: DraftProposer, *requests: Any) -> list[int]:
    return [prospect.most for prospect in proposer.prospects(requests)]


def test_a_request_may_be_guessed_for_up_to_the_end_of_the_context() -> None:
    proposer = DraftProposer(CountingModel(max_length=4))
    lengths = (3, 4, 5)
    contexts = [request(str(length), *range(length)) for length in lengths]
    assert [most(proposer, each) for each in contexts] == [[2], [1], [0]]


def test_images_take_no_room() -> None:
    proposer = DraftProposer(CountingModel(max_length=4))
    assert most(proposer, request("a", 1, *[VOCABULARY] * 9, 2)) == [3]
    assert most(proposer, request("b", VOCABULARY)) == [0]
    proposer.release("a")
    proposer.release("b")
    assert not proposer._image_tokens


def test_pages_are_for_those_that_have_missed_least() -> None:
    model = CountingModel(pages=3)
    proposer = DraftProposer(model)
    new, known = request("new", *range(15)), request("known", *range(14))
    assert most(proposer, new, known) == [0, 17]
    proposed(proposer, [request("known", *range(13))], 1)
    assert most(proposer, new, known) == [0, 17]
    assert most(proposer, new) == [16]
    # One that fits without guesses to come has those that its last page has room for.
    assert most(proposer, request("c", *range(25))) == [6]


def test_what_a_request_has_missed_is_known() -> None:
    proposer = DraftProposer(CountingModel())
    assert proposer.prospects([request("a", *range(40))])[0].missed == 40
    proposed(proposer, [request("a", *range(40))], 3)
    assert proposer.prospects([request("a", *range(50))])[0].missed == 8
    assert proposer.prospects([request("a", *range(40))])[0].missed == 1
