"""When a proposer is asked for guesses."""

from __future__ import annotations

from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllama.runtime.speculation.draft_proposer import DraftProposer
from mllama.runtime.speculation.proposer import Proposer, Prospect
from mllama.runtime.speculation.speculation import Speculation
from mllama.runtime.speculation.step_times import StepTime

from .draft_models import CountingModel

PAGE = 16


class Tokens:
    """The tokens of a request that is answered."""

    active_length = generated_length = 1
    actively_chunked = False

    def __init__(self, length: int) -> None:
        self.all = np.zeros(length, np.int64)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, place: int) -> int:
        return int(self.all[place])


class CountingProposer:
    """Guesses a token so many times, and counts how often it is asked."""

    def __init__(self, count: int, token: int = 0) -> None:
        self.count = count
        self.token = token
        self.asked = 0

    def prospects(self, contexts: Any) -> list[Prospect]:
        return [Prospect(self.count)] * len(contexts)

    def propose(self, contexts: Any, limits: Any) -> list[np.ndarray]:
        self.asked += 1
        return [
            np.full(min(self.count, limit), self.token)
            for _, limit in zip(contexts, limits, strict=True)
        ]

    def release(self, request_id: Any) -> None:
        """Does nothing."""


def speculation_of(
    proposer: Proposer,
    blocks: list[int],
    *,
    observes: bool = True,
    step_seconds: float = 1e-9,
) -> Speculation:
    """Returns one whose steps take no time, beside which looking takes long."""
    speculation = Speculation(
        proposer,
        SimpleNamespace(num_req_blocks=lambda context: blocks[0]),
        page_size=PAGE,
        vocab_size=10,
        observes=observes,
    )
    for _ in range(8):
        speculation.times.observe(StepTime(1, False, step_seconds))
    return speculation


def request(length: int, *, name: str = "a", max_length: int = 1000) -> Any:
    return SimpleNamespace(
        request_id=name,
        tokens=Tokens(length),
        max_length=max_length,
        matcher=None,
        eos_tracker=SimpleNamespace(eos_token_ids=set()),
        log_probabilities=0,
        sampling_params=SimpleNamespace(logits_processors=None),
    )


def test_a_proposer_without_guesses_is_left_alone_for_some_steps() -> None:
    proposer = CountingProposer(0)
    speculation = speculation_of(proposer, [1])
    for length in range(1, 15):
        assert speculation.guesses([request(length)]) is None
    assert proposer.asked == 1


def test_a_full_block_puts_guesses_off_by_one_step() -> None:
    proposer, blocks = CountingProposer(3), [1]
    speculation = speculation_of(proposer, blocks)
    assert speculation.guesses([request(PAGE)]) is None
    blocks[0] = 2
    guesses = speculation.guesses([request(PAGE + 1)])
    assert guesses is not None
    assert guesses[0].size


def test_guesses_that_can_not_be_chosen_are_given_up() -> None:
    proposer = CountingProposer(3, token=10)
    speculation = speculation_of(proposer, [8], observes=False)
    for length in range(1, 100):
        assert speculation.guesses([request(length)]) is None
    assert proposer.asked < 20


def drafting(
    model: Any, *, step_seconds: float = 1.0, prefill_tokens: int = 128
) -> Speculation:
    proposer = DraftProposer(model, prefill_tokens=prefill_tokens)
    return speculation_of(proposer, [1000], observes=False, step_seconds=step_seconds)


@pytest.mark.parametrize(("prompt", "answer"), [(8192, 60), (2000, 20)])
def test_a_prompt_that_an_answer_can_not_pay_for_is_not_prefilled(
    prompt: int, answer: int
) -> None:
    model = CountingModel(pages=2000, max_length=100_000)
    speculation = drafting(model)
    end = prompt + answer
    for length in range(prompt + 1, end):
        assert speculation.guesses([request(length, max_length=end)]) is None
        # The next step may be predicted.
        assert not speculation.is_promising
    assert not model.steps


def test_a_prompt_that_an_answer_pays_for_is_prefilled() -> None:
    model = CountingModel(pages=2000, max_length=100_000)
    speculation = drafting(model)
    found = [
        speculation.guesses([request(length, max_length=2000)])
        for length in range(501, 505)
    ]
    assert found[:3] == [None] * 3
    assert found[3] is not None
    assert [step[0] for step in model.steps[:4]] == [128, 128, 128, 120]


class SlowModel(CountingModel):
    """A draft model that takes two steps of the model for each token."""

    def next_tokens(self, rows: Any) -> np.ndarray:
        sleep(0.002 * sum(len(row.tokens) for row in rows))
        return super().next_tokens(rows)


def test_what_catching_up_takes_is_measured_and_ends_it() -> None:
    """Whether or not it has led to a guess."""
    model = SlowModel(pages=2000, max_length=100_000)
    speculation = drafting(model, step_seconds=0.001, prefill_tokens=32)
    for length in range(501, 521):
        assert speculation.guesses([request(length, max_length=800)]) is None
    # The first call only warms the model up.
    assert len(model.steps) == 2
    assert not speculation.is_promising
    for length in range(501, 521):
        another = request(length, name="b", max_length=800)
        assert speculation.guesses([another]) is None
    assert len(model.steps) == 2


@pytest.mark.parametrize("limits", [{"max_length": 50}, {"pages": 5}])
def test_steps_are_predicted_where_a_draft_model_has_no_room(
    limits: dict[str, int],
) -> None:
    """Past its context, and without pages of its KV cache."""
    model = CountingModel(**{"pages": 2000, "max_length": 100_000} | limits)
    speculation = drafting(model)
    assert speculation.guesses([request(45)]) is not None
    assert speculation.is_promising
    model.steps.clear()
    for length in range(52, 80):
        assert speculation.guesses([request(length)]) is None
        assert not speculation.is_promising
        speculation.look_on([request(length)])
        assert not speculation.is_promising
    assert not model.steps
    # A request that has room is guessed for beside it.
    found = speculation.guesses([request(90), request(20, name="b")])
    assert found is not None
    assert [bool(each.size) for each in found] == [False, True]
