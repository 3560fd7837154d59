"""The next decode step starts before the scheduler asks for it."""

from __future__ import annotations

import logging
from concurrent.futures import wait
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllama.runtime.overlap import OverlappedExecution

from .conftest import ask
from .harness import NEW_TOKENS, Request, Scheduled

Pictures = list[Image.Image]
Inputs = list[np.ndarray]
PAGE = 128
"""Tokens in a page of the KV cache."""
LONG = PAGE + 12
"""Length of answers that outgrow a page."""


@pytest.fixture
def ahead(tight: Scheduled) -> OverlappedExecution:
    assert tight.overlap is not None
    return tight.overlap


def settle(ahead: OverlappedExecution) -> None:
    """Waits for a step that started ahead of the scheduler."""
    if ahead._ahead is not None:
        wait([ahead._ahead.outputs])


def record_runs(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the number of tokens in each later run of the text graph."""
    model = scheduled.pipeline._pipeline_model
    execute, token_counts = model.execute, []

    def counting(model_inputs: Any) -> Any:
        token_counts.append(model_inputs.tokens.num_elements)
        return execute(model_inputs=model_inputs)

    monkeypatch.setattr(model, "execute", counting)
    return token_counts


def answered(scheduled: Scheduled, conversations: list[Any]) -> list[list[int]]:
    """Returns long answers to conversations that are submitted together."""
    scheduled.forget()
    requests: list[Request] = [scheduled.submit(each, LONG) for each in conversations]
    scheduled.run()
    assert [len(request.token_ids) for request in requests] == [LONG] * len(requests)
    return [request.token_ids for request in requests]


def test_the_next_step_runs_before_the_scheduler_asks_for_it(
    tight: Scheduled, ahead: OverlappedExecution, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight.forget()
    token_counts = record_runs(tight, monkeypatch)
    request = tight.submit(ask("Hello"))
    for _ in range(NEW_TOKENS - 1):
        tight.step()
    settle(ahead)
    assert len(request.token_ids) == NEW_TOKENS - 1
    assert token_counts[1:] == [1] * (NEW_TOKENS - 1)
    tight.run()
    assert len(token_counts) == NEW_TOKENS


def test_no_step_runs_after_the_last_token(
    tight: Scheduled, ahead: OverlappedExecution, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_counts = record_runs(tight, monkeypatch)
    tight.answers([ask("Hello"), ask("Good day to you")])
    settle(ahead)
    assert token_counts[1:] == [2] * (NEW_TOKENS - 1)


@pytest.mark.parametrize("settles_first", [True, False])
def test_predicted_inputs_equal_prepared_inputs(
    tight: Scheduled,
    ahead: OverlappedExecution,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    settles_first: bool,
) -> None:
    """At every step of two answers that outgrow their pages at different steps."""
    collect = ahead._collect
    steps: list[tuple[Inputs, Inputs]] = []

    def copies(inputs: Any) -> Inputs:
        # The caches themselves are shared by all steps.
        arrays = [buffer.to_numpy() for buffer in inputs.buffers]
        return [array.copy() for array in arrays if array.ndim < 3]

    def comparing(step: Any) -> Any:
        if settles_first:
            settle(ahead)
        assert ahead._inputs is not None
        # Preparing overwrites memory that both use.
        used = copies(step.prepared[0])
        fresh = ahead._prepare_batch(ahead._inputs.batches)
        steps.append((used, copies(fresh[0])))
        return collect(step)

    monkeypatch.setattr(ahead, "_collect", comparing)
    answered(tight, [ask("Hello"), ask(pictures[0], "What is in the picture?")])
    assert LONG - 10 < len(steps) < LONG
    for used, fresh in steps:
        assert len(used) == len(fresh)
        for one, other in zip(used, fresh, strict=True):
            np.testing.assert_array_equal(one, other)


def test_long_answers_of_a_batch_equal_those_of_single_requests(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    messages = [ask(pictures[1], "Tell me more"), ask("Hello"), ask("A word " * 20)]
    expected = [answered(roomy, [each])[0] for each in messages]
    assert answered(tight, messages) == expected


def test_a_release_discards_the_step_that_ran_ahead(
    tight: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another request may own the pages that the step wrote."""
    tight.forget()
    token_counts = record_runs(tight, monkeypatch)
    tight.submit(ask("Hello"))
    for _ in range(3):
        tight.step()
    tight.pipeline.release("another")
    tight.run()
    assert token_counts[1:] == [1] * NEW_TOKENS


@pytest.mark.parametrize("caching", [True, False])
def test_a_preempted_request_is_prefilled_again(
    tight: Scheduled, roomy: Scheduled, caching: bool
) -> None:
    """After each of its tokens, one of which is the first of a page."""
    messages = ask("A word " * 26)
    length = len(tight.submit(messages, 1).context.tokens)
    tight.run()
    new_tokens = PAGE + 6 - length
    assert new_tokens > 8
    expected = roomy.submit(messages, new_tokens)
    roomy.run()
    for stage in range(2, new_tokens):
        tight.forget()
        request = tight.submit(messages, new_tokens)
        for _ in range(stage):
            tight.step()
        tight.preempt(request)
        if not caching:
            tight.forget()
        tight.run()
        assert request.token_ids == expected.token_ids


@pytest.mark.parametrize("settles_first", [True, False])
def test_a_failed_step_ends_its_request(
    tight: Scheduled,
    roomy: Scheduled,
    ahead: OverlappedExecution,
    monkeypatch: pytest.MonkeyPatch,
    settles_first: bool,
) -> None:
    launch, launched = ahead._launch, 0

    def failing_fourth(*arguments: Any, **options: Any) -> Any:
        nonlocal launched
        launched += 1
        if launched == 4:
            raise RuntimeError("step failed")
        return launch(*arguments, **options)

    tight.forget()
    with monkeypatch.context() as patched:
        patched.setattr(ahead, "_launch", failing_fourth)
        request = tight.submit(ask("Hello"))
        while request.status is None:
            tight.step()
            if settles_first:
                settle(ahead)
    assert request.status == "failed"
    assert request.token_ids == roomy.alone(ask("Hello"))[:3]
    assert tight.alone(ask("Hello")) == roomy.alone(ask("Hello"))


def test_the_failure_of_an_unused_step_is_ignored(
    tight: Scheduled,
    roomy: Scheduled,
    ahead: OverlappedExecution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scheduler prefills a new request instead of asking for the failed step."""
    expected = [roomy.alone(ask(text)) for text in ("Hello", "Good day")]
    tight.forget()
    request = tight.submit(ask("Hello"))
    for _ in range(2):
        tight.step()
    settle(ahead)
    with monkeypatch.context() as patched:
        patched.setattr(ahead, "_launch", None)
        tight.step()
        assert ahead._ahead is not None
        assert ahead._ahead.outputs.exception() is not None
    other = tight.submit(ask("Good day"))
    tight.run()
    assert [request.token_ids, other.token_ids] == expected


def test_a_full_kv_cache_is_left_to_the_scheduler(
    tight: Scheduled,
    roomy: Scheduled,
    ahead: OverlappedExecution,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """When the next token is the first of a page."""
    refused = []

    def full(context: Any) -> None:
        refused.append(context)
        raise RuntimeError("no page is free")

    manager = SimpleNamespace(alloc=full, step=ahead._kv_manager.step)
    monkeypatch.setattr(ahead, "_kv_manager", manager)
    with caplog.at_level(logging.WARNING):
        assert answered(tight, [ask("Hello")]) == answered(roomy, [ask("Hello")])
    assert refused
    assert not caplog.records
