"""Requests with all kinds of settings, and guesses of their answers."""

from __future__ import annotations

from typing import Any

from PIL import Image

from mllama.runtime.speculation.speculation import Speculation

from .conftest import ask
from .harness import Request, Scheduled
from .proposers import Oracle, always_guess

Pictures = list[Image.Image]
LONG = 140
"""Length of answers that outgrow a page of the KV cache."""

SETTINGS: list[dict[str, Any]] = [
    {},
    {"top_k": -1, "temperature": 1.5, "seed": 1},
    {"top_k": 20, "top_p": 0.95, "min_p": 0.01, "temperature": 2.0, "seed": 2},
    {"frequency_penalty": 2.0, "presence_penalty": 1.0},
    {
        "top_k": -1,
        "repetition_penalty": 1.8,
        "temperature": 1.2,
        "bias": {9: 4.0},
        "seed": 4,
    },
    {
        "top_k": -1,
        "temperature": 1.5,
        "min_new_tokens": 30,
        "ignore_eos": False,
        "seed": 5,
    },
    {"ignore_eos": False},
]
"""Of each request of a batch; the last two end where the model ends them."""


def submit_all(
    scheduled: Scheduled, pictures: Pictures, length: int = LONG
) -> list[Request]:
    """Submits a request with each of the settings, some of them about pictures."""
    requests = []
    for number, sampling in enumerate(SETTINGS):
        shown = [pictures[0]] if number % 2 else []
        messages = ask(*shown, f"What is in number {number}?")
        requests.append(scheduled.submit(messages, length, **sampling))
    return requests


def answers_of(requests: list[Request]) -> list[list[int]]:
    assert all(
        each.status in ("end_of_sequence", "maximum_length") for each in requests
    )
    return [request.token_ids for request in requests]


def guess_right(
    scheduled: Scheduled,
    requests: list[Request],
    answers: list[list[int]],
    wrong: float = 0.0,
    limit: int = 4,
) -> Speculation:
    """Has a scheduler guess the answers of requests, a share of the tokens wrongly."""
    oracle = Oracle(wrong, len(scheduled.tokenizer.delegate))
    for request, answer in zip(requests, answers, strict=True):
        oracle.answers[request.id] = answer
    return always_guess(scheduled, oracle, limit)


def answers_without_guesses(roomy: Scheduled, pictures: Pictures) -> list[list[int]]:
    """The answer with each of the settings."""
    roomy.forget()
    requests = submit_all(roomy, pictures)
    roomy.run()
    return answers_of(requests)
