"""Outputs that come one step late, and exceptions between two batches.

A stand-in does what MAX's overlap pipeline does with its requests.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.pipelines.context import (
    FUTURE_TOKEN,
    SamplingParams,
    TextContext,
    TokenBuffer,
)
from max.pipelines.modeling.types import TextGenerationInputs

from mllama.runtime.deferred_outputs import DeferredExecution
from mllama.runtime.fault_isolation import has_failed

TOKENS = 4
"""Length of an answer."""


def request(**settings: Any) -> TextContext:
    """A request whose prompt is one token, and whose answer has ``TOKENS``."""
    return TextContext(
        max_length=1 + TOKENS,
        tokens=TokenBuffer(np.array([7], dtype=np.int64)),
        sampling_params=SamplingParams(**settings),
    )


class Pipeline:
    """The order of events of MAX's overlap pipeline: the token of a request is the
    number of its tokens so far."""

    def __init__(self) -> None:
        self._prev_batch: Any = None
        self.batches: list[list[Any]] = []
        self.seen: list[list[int]] = []
        """The last token of each request when a batch starts."""
        self.fails: dict[str, Any] = {}
        """A function of the batch for each stage, that may raise."""

    def has_pending_outputs(self) -> bool:
        return self._prev_batch is not None

    def execute(self, inputs: Any) -> dict[Any, Any]:
        batch = inputs.flat_batch
        self._fail("launch", batch)
        if batch:
            self.batches.append(batch)
            self.seen.append([int(context.tokens[-1]) for context in batch])
        outputs = {}
        if self._prev_batch is not None:
            previous, tokens = self._prev_batch.requests, self._prev_batch.tokens
            if self._prev_batch.is_processed:
                raise ValueError("Outputs have already been processed.")
            self._prev_batch.is_processed = True
            self._fail("read", previous)
            for context, token in zip(previous, tokens, strict=True):
                context.realize_future_token(token)
                outputs[context.request_id] = context.to_generation_output()
            self._prev_batch = None
        self._fail("sample", batch)
        if batch:
            tokens = [len(context.tokens) for context in batch]
            for context in batch:
                context.update_with_future_token()
            self._prev_batch = SimpleNamespace(
                requests=batch, tokens=tokens, is_processed=False
            )
        return outputs

    def _fail(self, stage: str, batch: list[Any]) -> None:
        if stage in self.fails:
            self.fails[stage](batch)


class Scheduler:
    """Keeps a batch running as MAX's scheduler does."""

    def __init__(self) -> None:
        self.pipeline = Pipeline()
        self.deferred = DeferredExecution(self.pipeline)
        self.running: list[Any] = []
        self.answers: dict[Any, list[int]] = {}
        self.failed: list[Any] = []

    def run(self, *batch: Any, steps: int = 20) -> list[list[int]]:
        """Returns the answers of requests that start together."""
        self.running = list(batch)
        self.answers = {context.request_id: [] for context in batch}
        for _ in range(steps):
            if not (self.running or self.pipeline.has_pending_outputs()):
                break
            self.step()
        assert not self.running
        return list(self.answers.values())

    def step(self) -> None:
        outputs = self.deferred.execute(
            TextGenerationInputs(batches=[list(self.running)])
        )
        by_id = {context.request_id: context for context in self.running}
        for name, output in outputs.items():
            if name not in by_id:
                continue  # MAX computes a token more than a request has.
            self.answers[name] += output.tokens
            if output.is_done:
                self.running = [
                    each for each in self.running if each is not by_id[name]
                ]
                if has_failed(output.final_status):
                    self.failed.append(name)


WHOLE = list(range(1, TOKENS + 1))


class Once:
    """Raises the first time that a batch has some size, after some calls."""

    def __init__(self, size: int, after: int = 0) -> None:
        self.size, self.after = size, after

    def __call__(self, batch: list[Any]) -> None:
        if len(batch) >= self.size:
            self.after -= 1
            if self.after == -1:
                raise RuntimeError("a fault")


class Whenever:
    """Raises whenever a request is in a batch."""

    def __init__(self, request: Any) -> None:
        self.request = request

    def __call__(self, batch: list[Any]) -> None:
        if any(context is self.request for context in batch):
            raise RuntimeError("a fault")


def test_outputs_come_a_step_late_and_whole() -> None:
    scheduler = Scheduler()
    assert scheduler.run(request(), request()) == [WHOLE, WHOLE]
    # Each batch but the first starts before the last token is known.
    assert scheduler.pipeline.seen[1:] == [[FUTURE_TOKEN] * 2] * TOKENS


@pytest.mark.parametrize(
    "settings", [{"presence_penalty": 1.0}, {"logits_processors": [lambda _: None]}]
)
def test_a_request_that_counts_its_tokens_waits_for_the_last(settings: Any) -> None:
    """Also if another request of the batch doesn't."""
    scheduler = Scheduler()
    assert scheduler.run(request(**settings), request()) == [WHOLE, WHOLE]
    seen = [token for tokens in scheduler.pipeline.seen for token in tokens]
    assert FUTURE_TOKEN not in seen


@pytest.mark.parametrize("after", range(TOKENS))
def test_a_batch_that_fails_before_it_starts_loses_nothing(after: int) -> None:
    scheduler = Scheduler()
    scheduler.pipeline.fails["launch"] = Once(2, after)
    assert scheduler.run(request(), request()) == [WHOLE, WHOLE]
    assert [len(batch) for batch in scheduler.pipeline.batches].count(1) >= 2 * (
        after < TOKENS - 1
    )
    assert not scheduler.failed


def test_a_request_that_always_fails_ends_alone() -> None:
    scheduler = Scheduler()
    good, bad, other = request(), request(), request()
    scheduler.pipeline.fails["launch"] = Whenever(bad)
    assert scheduler.run(good, bad, other) == [WHOLE, [], WHOLE]
    assert scheduler.failed == [bad.request_id]


@pytest.mark.parametrize("stage", ["read", "sample"])
def test_requests_whose_tokens_are_lost_end_and_others_continue(stage: str) -> None:
    """Of three requests, two have a token that nobody has read."""
    scheduler = Scheduler()
    first, second, newcomer = request(), request(), request()
    scheduler.running = [first, second]
    scheduler.answers = {context.request_id: [] for context in (first, second)}
    scheduler.step()
    scheduler.step()
    size = 2 if stage == "read" else 3
    scheduler.pipeline.fails[stage] = Once(size)
    scheduler.running.append(newcomer)
    scheduler.answers[newcomer.request_id] = []
    scheduler.step()
    assert scheduler.failed == [first.request_id, second.request_id]
    assert [each is newcomer for each in scheduler.running] == [True]
    while scheduler.running:
        scheduler.step()
    assert scheduler.answers[newcomer.request_id] == WHOLE


def test_a_request_that_fails_alone_leaves_nothing_pending() -> None:
    scheduler = Scheduler()
    bad = request()
    scheduler.pipeline.fails["sample"] = Whenever(bad)
    scheduler.run(bad)
    assert scheduler.failed == [bad.request_id]
    assert not scheduler.pipeline.has_pending_outputs()
    scheduler.pipeline.fails.clear()
    assert scheduler.run(request()) == [WHOLE]


def test_an_error_without_requests_is_raised() -> None:
    def fail(batch: list[Any]) -> None:
        raise RuntimeError("a fault")

    scheduler = Scheduler()
    scheduler.pipeline.fails["launch"] = fail
    with pytest.raises(RuntimeError, match="a fault"):
        scheduler.deferred.execute(TextGenerationInputs(batches=[[]]))
