"""Answers are the same with and without guesses, however right the guesses are."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.runtime.speculation.guess_counts import GuessCounts
from mllama.runtime.speculation.prompt_lookup import PromptLookup

from .conftest import ask
from .guessed_requests import (
    LONG,
    SETTINGS,
    Pictures,
    answers_of,
    answers_without_guesses,
    guess_right,
    submit_all,
)
from .harness import Scheduled
from .proposers import Noise, Oracle, always_guess
from .test_overlap import record_runs, settle


@pytest.fixture(scope="module")
def expected(roomy: Scheduled, pictures: Pictures) -> list[list[int]]:
    return answers_without_guesses(roomy, pictures)


@pytest.mark.parametrize(("wrong", "limit"), [(0.0, 1), (0.0, 8), (0.3, 4), (1.0, 3)])
def test_answers_are_the_same_whatever_is_guessed(
    guessing: Scheduled,
    pictures: Pictures,
    expected: list[list[int]],
    wrong: float,
    limit: int,
) -> None:
    guessing.forget()
    requests = submit_all(guessing, pictures)
    speculation = guess_right(guessing, requests, expected, wrong, limit)
    speculation.counts = GuessCounts()
    guessing.run()
    assert answers_of(requests) == expected
    proposed, accepted = speculation.counts.proposed, speculation.counts.accepted
    assert proposed > LONG
    assert accepted == proposed if wrong == 0 else accepted < proposed
    assert (accepted == 0) is (wrong == 1)


def test_right_guesses_save_steps(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    guessing.forget()
    request = guessing.submit(ask("What is in number 0?"), LONG)
    guess_right(guessing, [request], expected[:1])
    guessing.run()
    assert request.token_ids == expected[0]
    # A step with four right guesses has five tokens.
    assert len(request.outputs) < LONG / 4


def test_a_step_with_guesses_runs_before_the_scheduler_asks_for_it(
    guessing: Scheduled, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    guessing.forget()
    assert guessing.overlap is not None
    token_counts = record_runs(guessing, monkeypatch)
    request = guessing.submit(ask("What is in number 0?"), LONG)
    guess_right(guessing, [request], expected[:1])
    for _ in range(4):
        guessing.step()
    settle(guessing.overlap)
    assert len(token_counts) == 5
    assert token_counts[1:] == [5] * 4
    assert len(request.token_ids) == 1 + 3 * 5
    guessing.run()
    assert request.token_ids == expected[0]


def test_the_time_of_guesses_counts_in_each_step_that_checks_some(
    guessing: Scheduled, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in those that were not run ahead, as an arrival changes the batch."""
    guessing.forget()
    overlap: Any = guessing.overlap
    steps = []
    monkeypatch.setattr(overlap._clock, "start", steps.append)
    requests = []
    oracle = Oracle(0.0, len(guessing.tokenizer.delegate))
    always_guess(guessing, oracle)
    for _ in range(4):
        requests.append(guessing.submit(ask("What is in number 0?"), 60))
        oracle.answers[requests[-1].id] = expected[0]
        for _ in range(3):
            guessing.step()
    guessing.run()
    assert answers_of(requests) == [expected[0][:60]] * 4
    guessed = [step for step in steps if step.guesses is not None]
    assert not all(step.follows for step in guessed)
    assert all(step.guessing_seconds > 0 for step in guessed)


def test_steps_are_predicted_where_no_guess_is_promising(
    guessing: Scheduled, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    guessing.forget()
    overlap: Any = guessing.overlap
    record, recorded = overlap._record_tokens, 0

    def counting(inputs: Any) -> Any:
        nonlocal recorded
        outputs = record(inputs)
        recorded += outputs is not None
        return outputs

    monkeypatch.setattr(overlap, "_record_tokens", counting)
    always_guess(guessing, PromptLookup(), 0)
    request = guessing.submit(ask("What is in number 0?"), 60)
    guessing.run()
    assert request.token_ids == expected[0][:60]
    assert recorded > 55


def test_guesses_of_the_text_itself_change_no_answer(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    for proposer in (PromptLookup(), Noise(len(guessing.tokenizer.delegate))):
        guessing.forget()
        always_guess(guessing, proposer)
        requests = submit_all(guessing, pictures)
        guessing.run()
        assert answers_of(requests) == expected


def test_the_default_budget_changes_no_answer_and_counts(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    guessing.forget()
    speculation = guessing.speculation
    assert speculation is not None
    requests = submit_all(guessing, pictures)
    guessing.run()
    assert answers_of(requests) == expected
    counts = speculation.counts
    assert counts.drafts <= counts.proposed
    assert counts.accepted <= counts.proposed
    assert not speculation.budget._paces
    assert not speculation._unchecked


@pytest.mark.parametrize("size", [1, 5])
def test_chunks_of_other_prompts_share_steps_with_guesses(
    guessing: Scheduled, pictures: Pictures, expected: list[list[int]], size: int
) -> None:
    guessing.forget()
    guessing.chunk_size(size)
    oracle = Oracle(0.2, len(guessing.tokenizer.delegate))
    always_guess(guessing, oracle)
    requests = []
    for number, sampling in enumerate(SETTINGS):
        shown = [pictures[0]] if number % 2 else []
        messages = ask(*shown, f"What is in number {number}?")
        requests.append(guessing.submit(messages, LONG, **sampling))
        oracle.answers[requests[-1].id] = expected[number]
        for _ in range(3):
            guessing.step()
    guessing.run()
    assert answers_of(requests) == expected


def test_equal_prompts_share_the_prefix_cache(
    guessing: Scheduled, roomy: Scheduled
) -> None:
    """Blocks that were filled in steps with guesses are those of the answer."""
    text = "Tell me everything about the circle, the square and the star. " * 12
    first = ask(text)
    roomy.forget()
    reference = roomy.submit(first, LONG)
    roomy.run()
    guessing.forget()
    request = guessing.submit(first, LONG)
    guess_right(guessing, [request], [reference.token_ids], wrong=0.4)
    guessing.run()
    assert request.token_ids == reference.token_ids
    # The next turn takes prompt and answer from the cache.
    decode = guessing.tokenizer.delegate.decode
    turn = [
        *first,
        {"role": "assistant", "content": decode(reference.token_ids)},
        *ask("And then?"),
    ]
    roomy.forget()
    always_guess(guessing, Noise(100))
    assert guessing.answers([turn]) == roomy.answers([turn])


def test_without_the_prefix_cache(
    roomy: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    uncached = Scheduled(
        max_batch_size=8,
        image_cache_size="16MiB",
        prefix_caching=False,
        speculate="lookup",
    )
    always_guess(uncached, Noise(len(uncached.tokenizer.delegate)))
    requests = submit_all(uncached, pictures)
    uncached.run()
    assert answers_of(requests) == expected
