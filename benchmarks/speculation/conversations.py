"""Asks conversations about pictures with guesses and without: all answers are equal.

The guesses are those of prompt lookup, of a draft model (the demo model's own path of
plain texts) and random ones.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.speculation.scheduled import (
    Question,
    answered,
    scheduled,
    without_guesses,
)
from demo.data.conversations import KINDS, messages, random_conversation
from demo.data.drawing import render
from mllama.requests.output_format import OutputFormat
from mllama.runtime.speculation.guess_counts import GuessCounts
from mllama.runtime.speculation.proposer import Proposer
from tests.reference.llama import write_demo_text_path
from tests.scheduling.harness import Scheduled
from tests.scheduling.proposers import Noise, always_guess

STREAMS = 8
AT_ONCE = 40
"""Questions that wait or run at the same time."""

SCHEMA: Final = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square", "triangle", "star"]},
        "color": {"type": "string", "maxLength": 20},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["shape", "color", "count"],
}
COMPANIONS: Final[list[dict[str, Any]]] = [
    {"top_k": -1, "temperature": 1.0},
    {"top_p": 0.9, "top_k": 50, "temperature": 1.3},
    {"frequency_penalty": 0.5, "top_k": -1, "temperature": 0.8},
]
"""Settings, in turn, of the answers that share batches with the greedy ones."""


def questions(count: int, seed: int) -> list[Question]:
    """Returns conversations of all kinds, each about pictures of its own.

    The answers are greedy, every sixth with a penalty.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        conversation, scenes = random_conversation(rng, KINDS[number % len(KINDS)])
        # A third goes on after its end, and repeats itself.
        goes_on = number % 3 == 0
        found.append(
            Question(
                messages(conversation, [render(scene) for scene in scenes]),
                80 if goes_on else 40,
                {"ignore_eos": goes_on}
                | ({"repetition_penalty": 1.2} if number % 6 == 5 else {}),
            )
        )
    return found


def companions(count: int, seed: int) -> list[Question]:
    """Returns questions that are sampled about pictures, or answered in JSON."""
    pictured = questions(count - count // 2, seed)
    sampled = [
        replace(each, sampling=each.sampling | COMPANIONS[n % 3] | {"seed": n})
        for n, each in enumerate(pictured)
    ]
    formatted = [
        Question(
            [{"role": "user", "content": f"What is in number {number}?"}],
            80,
            {"temperature": 1.0, "seed": number} if number % 2 else {},
            OutputFormat.json_schema(SCHEMA, strict=True),
        )
        for number in range(count // 2)
    ]
    return sampled + formatted


def compare(count: int, seed: int) -> bool:
    """Prints how many answers are equal; returns True if all are.

    Half as many other answers share the batches of the greedy conversations.
    """
    asked = questions(count, seed) + companions(count // 2, seed + 1)
    random.Random(seed).shuffle(asked)
    model = scheduled(None, STREAMS)
    with without_guesses(model):
        expected = _answers(model, asked)
    noise = Noise(len(model.tokenizer.delegate))
    same = _compare(model, "lookup", asked, expected)
    same &= _compare(model, "random guesses", asked, expected, noise)
    del model
    with tempfile.TemporaryDirectory() as folder:
        draft = write_demo_text_path(Path(folder))
        drafting = scheduled(None, STREAMS, speculate="draft", draft_model_path=draft)
    return same & _compare(drafting, "draft model", asked, expected)


def _compare(
    model: Scheduled,
    name: str,
    asked: Sequence[Question],
    expected: list[list[int]],
    proposer: Proposer | None = None,
) -> bool:
    """Prints how many answers are equal to those without guesses, as far as guesses pay
    (unless a proposer is given) and with guesses in each step.

    Returns:
        Whether all are equal.
    """
    speculation: Any = model.speculation
    same = True
    for always in (True,) if proposer else (False, True):
        if always:
            always_guess(model, proposer or speculation._proposer.proposer)
        speculation.counts = GuessCounts()
        equal = sum(map(list.__eq__, expected, _answers(model, asked)))
        print(
            f"{name}, {'in each step' if always else 'as far as it pays'}: "
            f"{equal} of {len(asked)} answers equal, "
            f"{speculation.counts.proposed} tokens guessed, "
            f"{speculation.counts.accepted} right",
            flush=True,
        )
        same &= equal == len(asked)
    return same


def _answers(model: Scheduled, asked: Sequence[Question]) -> list[list[int]]:
    model.forget()
    return [
        answer
        for start in range(0, len(asked), AT_ONCE)
        for answer in answered(model, asked[start : start + AT_ONCE]).answers
    ]
