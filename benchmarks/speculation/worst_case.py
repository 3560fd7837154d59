"""Lookup against no guesses on answers that it can't guess."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speculation import conversations
from benchmarks.speculation.scheduled import (
    Question,
    answered,
    picture,
    scheduled,
    without_guesses,
)
from tests.scheduling.harness import Scheduled

STREAMS = (1, 4, 8)
FEW = range(300, 316)
"""Tokens of answers whose pairs have all occurred, but say nothing."""


def workloads(demo: bool, streams: int, new_tokens: int) -> dict[str, list[Question]]:
    """Returns questions by name."""
    rng = np.random.default_rng(0)

    def asked(seed: int, sampling: dict[str, Any], *pictures: Any) -> Question:
        words = " ".join(str(n) for n in rng.integers(0, 1000, 60))
        parts = [*pictures, {"type": "text", "text": words}]
        content = [{"role": "user", "content": parts}]
        settings = {"top_k": -1, "temperature": 1.0, "seed": seed, **sampling}
        return Question(content, new_tokens, settings)

    few = dict.fromkeys(FEW, 100.0)
    found = {
        "random tokens": [asked(n, {}) for n in range(streams)],
        "16 tokens at random": [asked(n, {"bias": few}) for n in range(streams)],
        "greedy": [asked(n, {"top_k": 1}) for n in range(streams)],
    }
    if not demo:
        shown = picture()
        found["random tokens about a picture"] = [
            asked(n, {}, shown) for n in range(streams)
        ]
    elif streams == STREAMS[-1]:
        # More than a batch holds, so that others take the places of those that end.
        found["questions about pictures"] = conversations.questions(12 * streams, 7)
    return found


def measure(model_path: Path | None, new_tokens: int, rounds: int) -> None:
    """Prints the ratio of each workload, in turn in each round."""
    model = scheduled(
        model_path, max(STREAMS), max_length=1024, image_cache_size=1 << 27
    )
    for streams in STREAMS:
        for name, asked in workloads(model_path is None, streams, new_tokens).items():
            # The first round warms up.
            rounds_of = [rates_in_turn(model, asked, n) for n in range(rounds + 1)][1:]
            ratios = [guessing / plain for plain, guessing in rounds_of]
            print(
                f"{streams} streams, {name}: {statistics.median(ratios):.3f} x "
                f"({min(ratios):.2f} to {max(ratios):.2f}), "
                f"{statistics.median(plain for plain, _ in rounds_of):.1f} tokens/s "
                "without guesses",
                flush=True,
            )


def rates_in_turn(
    model: Scheduled, asked: list[Question], number: int
) -> tuple[float, float]:
    """Returns the tokens per second of a full batch without guesses and with.

    Which comes first changes with the number of the round.
    """
    found = {}
    for guesses in (True, False) if number % 2 else (False, True):
        with nullcontext() if guesses else without_guesses(model):
            found[guesses] = answered(model, asked).full_rate
    return found[False], found[True]
