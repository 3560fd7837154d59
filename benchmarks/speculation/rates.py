"""Tokens per second by the share of right guesses."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.speculation.scheduled import (
    Question,
    Run,
    answered,
    picture,
    scheduled,
    without_guesses,
)
from mllama.runtime.speculation.guess_counts import GuessCounts
from tests.scheduling.proposers import Oracle, always_guess

RATES = (0.0, 0.5, 0.8, 1.0)
GUESSES = 4
PROMPT = "word " * 100
TOKEN = 300


def questions(
    streams: int, new_tokens: int, *, pictured: bool = False
) -> list[Question]:
    """Returns questions whose answer is known: a bias leaves the same token each time.

    Rounding changes answers of random weights otherwise.

    Args:
        streams: Their number.
        new_tokens: The tokens of each answer.
        pictured: Whether all are about one picture of four tiles.
    """
    asked = [
        {
            "role": "user",
            "content": [picture(), {"type": "text", "text": PROMPT}]
            if pictured
            else PROMPT,
        }
    ]
    return [Question(asked, new_tokens, {"bias": {TOKEN: 1000.0}})] * streams


def measure(
    model_path: Path | None,
    streams: int,
    new_tokens: int,
    rounds: int,
    *,
    pictured: bool = False,
) -> None:
    """Prints the medians of each rate over no guesses, in turn in each round."""
    model = scheduled(model_path, streams, max_length=1024, image_cache_size=1 << 27)
    assert model.speculation is not None
    asked = questions(streams, new_tokens, pictured=pictured)
    vocabulary = len(model.tokenizer.delegate)
    found: dict[float | None, list[tuple[Run, float]]] = {}
    for number in range(rounds + 1):
        for rate in (None, *RATES):
            if rate is None:
                with without_guesses(model):
                    run = answered(model, asked)
                accepted = 0.0
            else:
                oracle = Known(1 - rate, vocabulary, seed=number)
                speculation = always_guess(model, oracle, GUESSES)
                speculation.counts = GuessCounts()
                run = answered(model, asked)
                accepted = speculation.counts.accepted / speculation.counts.proposed
            if any(set(answer) != {TOKEN} for answer in run.answers):
                raise SystemExit("an answer has other tokens than the only ones")
            if number:  # The first round warms up.
                found.setdefault(rate, []).append((run, accepted))
    plain = statistics.median(run.rate for run, _ in found[None])
    print(f"{streams} streams, no guesses: {plain:.2f} tokens/s")
    for rate in RATES:
        runs = [run for run, _ in found[rate]]
        accepted = statistics.median(each for _, each in found[rate])
        speed = statistics.median(run.rate for run in runs)
        per_step = statistics.median(run.seconds / run.steps for run in runs)
        print(
            f"rate {rate}: {speed:.2f} tokens/s, {speed / plain:.2f} x; a step takes "
            f"{per_step * plain / streams:.2f} x; {accepted:.2f} of the guesses became "
            "tokens",
            flush=True,
        )


class Known(Oracle):
    """Knows that all answers are the same token."""

    def _guess(self, context: object, limit: int) -> object:
        self.answers = {context.request_id: [TOKEN] * 4096}  # type: ignore[attr-defined]
        return super()._guess(context, limit)
