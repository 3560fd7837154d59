"""Formats are kept by guesses, and log probabilities are those of each token."""

from __future__ import annotations

from typing import Any

import numpy as np

from mllama.max_model.sampling_context import LogProbabilityCounts

from . import test_formats
from .conftest import ask
from .guessed_requests import (
    guess_right,
)
from .harness import Request, Scheduled
from .proposers import NONE, AnyNumber, Noise, always_guess


def test_formats_are_kept(guessing: Scheduled, roomy: Scheduled) -> None:
    roomy.forget()
    references = test_formats.submit_all(roomy)
    roomy.run()
    answers = [request.token_ids for request in references]
    for wrong in (0.0, 0.5):
        guessing.forget()
        requests = test_formats.submit_all(guessing)
        guess_right(guessing, requests, answers, wrong)
        guessing.run()
        assert [request.token_ids for request in requests] == answers


def test_tokens_that_a_grammar_forbids_are_not_checked(guessing: Scheduled) -> None:
    forbidden = Noise(len(guessing.tokenizer.delegate))
    speculation = always_guess(guessing, forbidden)
    before = speculation.counts.proposed
    only_one = test_formats.OutputFormat.regex("a{60}")
    request = test_formats.submit(guessing, only_one)
    guessing.run()
    text = test_formats.text_of(guessing, request)
    assert text == "a" * 60
    # Nearly all random tokens are something else.
    assert speculation.counts.proposed - before < 20


def test_forced_tokens_are_guessed_if_each_needs_log_probabilities(
    guessing: Scheduled, roomy: Scheduled
) -> None:
    text = "It is a circle, and that is all there is to say about it."
    only_one = test_formats.OutputFormat.regex(text.replace(".", "\\."))

    class Nothing(AnyNumber):
        def propose(self, contexts: Any, limits: Any) -> Any:
            return [NONE] * len(contexts)

    speculation = always_guess(guessing, Nothing(), 0)
    found = []
    for scheduled in (roomy, guessing):
        scheduled.forget()
        before = speculation.counts.accepted
        request = test_formats.submit(scheduled, only_one, logprobs=2)
        scheduled.run()
        assert test_formats.text_of(scheduled, request) == text
        found.append(request)
    reference, guessed = found
    assert guessed.token_ids == reference.token_ids
    assert speculation.counts.accepted - before > len(guessed.token_ids) / 2
    assert len(guessed.outputs) < len(reference.outputs) / 2
    assert_same_log_probabilities(guessed, reference)


def assert_same_log_probabilities(one: Request, other: Request) -> None:
    """Checks the log probabilities of two answers; rounding differs a little."""
    assert len(one.log_probabilities) == len(other.log_probabilities) > 0
    for mine, theirs in zip(
        one.log_probabilities, other.log_probabilities, strict=True
    ):
        assert mine.sampled_token_ids == theirs.sampled_token_ids
        np.testing.assert_allclose(
            mine.token_log_probabilities, theirs.token_log_probabilities, atol=1e-3
        )
        for ours, reference in zip(
            mine.top_log_probabilities, theirs.top_log_probabilities, strict=True
        ):
            assert ours.keys() == reference.keys()


def test_log_probabilities_are_those_of_each_token(
    guessing: Scheduled, roomy: Scheduled
) -> None:
    """Of answers, and of a prompt that is prefilled while another is guessed."""
    counts = LogProbabilityCounts(answer=3)
    prompts = LogProbabilityCounts(answer=1, prompt=2)
    found: list[list[Request]] = []
    for scheduled in (roomy, guessing):
        scheduled.forget()
        first = scheduled.submit(ask("Number 1"), 40, counts=counts, top_k=-1, seed=4)
        if scheduled is guessing:
            guess_right(guessing, [first], [found[0][0].token_ids], wrong=0.2)
        for _ in range(4):
            scheduled.step()
        second = scheduled.submit(ask("Number 2"), 10, counts=prompts)
        scheduled.run()
        found.append([first, second])
    for one, other in zip(*found, strict=True):
        assert one.token_ids == other.token_ids
        assert_same_log_probabilities(one, other)
