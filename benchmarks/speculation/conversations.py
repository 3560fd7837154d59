"""Asks conversations about pictures with guesses and without: all answers are equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.speculation.scheduled import (
    Question,
    answered,
    scheduled,
    without_guesses,
)
from demo.data.conversations import KINDS, messages, random_conversation
from demo.data.drawing import render
from mllama.runtime.speculation.guess_counts import GuessCounts
from mllama.runtime.speculation.prompt_lookup import PromptLookup
from tests.scheduling.proposers import Noise, always_guess

STREAMS = 8
AT_ONCE = 40
"""Questions that wait or run at the same time."""

SAMPLING: list[dict[str, Any]] = [
    {},
    {"top_k": -1, "temperature": 1.0},
    {},
    {"top_p": 0.9, "top_k": 50, "temperature": 1.3},
    {"repetition_penalty": 1.2},
    {"frequency_penalty": 0.5, "top_k": -1, "temperature": 0.8},
]
"""Settings in turn; a third of the answers are plainly greedy."""


def questions(count: int, seed: int) -> list[Question]:
    """Returns conversations of all kinds, each about pictures of its own."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        conversation, scenes = random_conversation(rng, KINDS[number % len(KINDS)])
        sampling = SAMPLING[number % len(SAMPLING)] | {"seed": number}
        # A third goes on after its end, and repeats itself.
        goes_on = number % 3 == 0
        found.append(
            Question(
                messages(conversation, [render(scene) for scene in scenes]),
                80 if goes_on else 40,
                sampling | {"ignore_eos": goes_on},
            )
        )
    return found


def compare(count: int, seed: int) -> bool:
    """Prints how many answers are equal; returns True if all are."""
    model = scheduled(None, STREAMS)
    assert model.speculation is not None
    vocabulary = len(model.tokenizer.delegate)
    asked = questions(count, seed)
    batches = [asked[start : start + AT_ONCE] for start in range(0, count, AT_ONCE)]
    with without_guesses(model):
        expected = [
            answer for batch in batches for answer in answered(model, batch).answers
        ]
    adaptive = model.speculation._proposer, model.speculation.budget
    same = True
    for name, proposer in (
        ("lookup, as far as it pays", None),
        ("lookup, always checked", PromptLookup()),
        ("random guesses, always checked", Noise(vocabulary)),
    ):
        if proposer is None:
            model.speculation._proposer, model.speculation.budget = adaptive
        else:
            always_guess(model, proposer)
        model.forget()
        model.speculation.counts = GuessCounts()
        found = [
            answer for batch in batches for answer in answered(model, batch).answers
        ]
        counts = model.speculation.counts
        equal = sum(map(list.__eq__, expected, found))
        print(
            f"{name}: {equal} of {count} answers equal, "
            f"{counts.proposed} tokens guessed, {counts.accepted} right",
            flush=True,
        )
        same &= equal == count
    return same
