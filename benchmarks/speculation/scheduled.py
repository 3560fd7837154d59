"""One model whose scheduler answers with guesses and without, in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.output_format import OutputFormat
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling
from tests.scheduling.harness import Request, Scheduled


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        messages: The conversation.
        new_tokens: Tokens of the answer, at most.
        sampling: Settings of ``Scheduled.submit``; with a format, those of
            ``Sampling``.
        output_format: The format of the answer, which has no picture then; None is any.
    """

    messages: Sequence[Any]
    new_tokens: int
    sampling: dict[str, Any]
    output_format: OutputFormat | None = None

    def submit(self, model: Scheduled) -> Request:
        """Adds this question to a scheduler's queue."""
        if self.output_format is None:
            return model.submit(self.messages, self.new_tokens, **self.sampling)
        (context,) = model.prepare(
            GenerationRequest(
                prompt=ChatPrompt(messages=self.messages),
                sampling=Sampling(max_new_tokens=self.new_tokens, **self.sampling),
                output_format=self.output_format,
            )
        ).contexts
        return model.submit_context(context)


@dataclass(frozen=True)
class Run:
    """The answers to some questions.

    Attributes:
        answers: Their tokens.
        seconds: From the first token of any answer to the last.
        steps: Decode steps.
        full_rate: Tokens per second, first tokens excluded, from the first token of any
            answer until fewer are left than the batch holds.  Guesses that are right
            end some answers early, and others run alone then, where a server would
            begin the next ones.
    """

    answers: list[list[int]]
    seconds: float
    steps: int
    full_rate: float

    @property
    def rate(self) -> float:
        """Returns the tokens per second, first tokens excluded."""
        return sum(len(answer) - 1 for answer in self.answers) / self.seconds


def picture() -> dict[str, Any]:
    """Returns part of a message: a picture of noise, always the same one.

    It has four tiles at the published size.
    """
    noise = np.random.default_rng(0).integers(0, 256, (1120, 1120, 3), np.uint8)
    return {"type": "image", "image": Image.fromarray(noise)}


def scheduled(model: Path | None, streams: int, **options: Any) -> Scheduled:
    """Loads a model that guesses.

    Args:
        model: The model; None is the demo model.
        streams: Requests that are answered at once.
        options: Further options of the engine; by default it looks in the prompt.
    """
    guesses = {"speculate": "lookup"} | options
    return Scheduled(model_path=model, max_batch_size=streams, **guesses)


@contextmanager
def without_guesses(model: Scheduled) -> Iterator[None]:
    """Answers as with ``--speculate off``, within a ``with`` block."""
    overlap: Any = model.overlap
    kept = overlap._guessing_steps, overlap._clock
    overlap._guessing_steps = overlap._clock = None
    try:
        yield
    finally:
        overlap._guessing_steps, overlap._clock = kept


def answered(model: Scheduled, questions: Sequence[Question]) -> Run:
    """Has questions answered that are asked at once, as many at a time as fit."""
    requests = [each.submit(model) for each in questions]
    while not any(request.token_ids for request in requests):
        model.step()
    started, steps, full_rate = time.perf_counter(), 0, 0.0
    full = min(len(requests), model.pipeline.max_batch_size)
    while remaining := sum(request.status is None for request in requests):
        if remaining < full and not full_rate:
            full_rate = _decoded(requests) / (time.perf_counter() - started)
        model.step()
        steps += 1
    seconds = time.perf_counter() - started
    full_rate = full_rate or _decoded(requests) / seconds
    failed = [each for each in requests if each.status in ("failed", "cancelled")]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed")
    answers = [request.token_ids for request in requests]
    return Run(answers, seconds, steps, full_rate)


def _decoded(requests: Sequence[Request]) -> int:
    """Returns the tokens so far, without the first of each answer."""
    return sum(max(0, len(request.token_ids) - 1) for request in requests)
