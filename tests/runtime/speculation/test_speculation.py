"""When a proposer is asked for guesses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from mllama.runtime.speculation.speculation import Speculation
from mllama.runtime.speculation.step_times import StepTime

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

    def propose(self, contexts: Any, limits: Any) -> list[np.ndarray]:
        self.asked += 1
        return [
            np.full(min(self.count, limit), self.token)
            for _, limit in zip(contexts, limits, strict=True)
        ]

    def release(self, request_id: Any) -> None:
        """Does nothing."""


def speculation_of(
    proposer: CountingProposer, blocks: list[int], *, observes: bool = True
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
        speculation.times.observe(StepTime(1, False, 1e-9))
    return speculation


def request(length: int) -> Any:
    return SimpleNamespace(
        request_id="a",
        tokens=Tokens(length),
        max_length=1000,
        matcher=None,
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
