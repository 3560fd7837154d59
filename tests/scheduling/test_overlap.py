"""Steps that run before they are asked for; the other tests see what comes of it."""

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
BLOCK = 128
"""Tokens that a block of the KV cache holds."""
MANY = BLOCK + 12
"""Tokens of answers that outgrow a block."""


@pytest.fixture
def ahead(tight: Scheduled) -> OverlappedExecution:
    assert tight.overlap is not None
    return tight.overlap


def settle(ahead: OverlappedExecution) -> None:
    """Waits for a step that nobody has asked for."""
    if ahead._ahead is not None:
        wait([ahead._ahead.outputs])


def runs(scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each run of the text graph had, from now on."""
    model = scheduled.pipeline._pipeline_model
    execute, rows = model.execute, []

    def counting(model_inputs: Any) -> Any:
        rows.append(model_inputs.tokens.num_elements)
        return execute(model_inputs=model_inputs)

    monkeypatch.setattr(model, "execute", counting)
    return rows


def answered(scheduled: Scheduled, conversations: list[Any]) -> list[list[int]]:
    """Long answers to conversations that come together."""
    scheduled.forget()
    requests: list[Request] = [scheduled.submit(each, MANY) for each in conversations]
    scheduled.run()
    assert [len(request.token_ids) for request in requests] == [MANY] * len(requests)
    return [request.token_ids for request in requests]


def test_a_step_runs_before_it_is_asked_for(
    tight: Scheduled, ahead: OverlappedExecution, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight.forget()
    rows = runs(tight, monkeypatch)
    request = tight.submit(ask("Hello"))
    for _ in range(NEW_TOKENS - 1):
        tight.step()
    settle(ahead)
    assert len(request.token_ids) == NEW_TOKENS - 1
    assert rows[1:] == [1] * (NEW_TOKENS - 1)
    tight.run()
    assert len(rows) == NEW_TOKENS


def test_none_runs_after_the_last_token(
    tight: Scheduled, ahead: OverlappedExecution, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = runs(tight, monkeypatch)
    tight.answers([ask("Hello"), ask("Good day to you")])
    settle(ahead)
    assert rows[1:] == [2] * (NEW_TOKENS - 1)


@pytest.mark.parametrize("asked_late", [True, False])
def test_its_inputs_are_those_that_would_be_prepared(
    tight: Scheduled,
    ahead: OverlappedExecution,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    asked_late: bool,
) -> None:
    """At every step of answers that outgrow their blocks at different steps."""
    awaited = ahead._collect
    steps: list[tuple[Inputs, Inputs]] = []

    def copies(inputs: Any) -> Inputs:
        # The caches themselves are no inputs of a step's own.
        arrays = [buffer.to_numpy() for buffer in inputs.buffers]
        return [array.copy() for array in arrays if array.ndim < 3]

    def comparing(step: Any) -> Any:
        if asked_late:
            settle(ahead)
        assert ahead._inputs is not None
        # Preparing writes into memory that both share.
        used = copies(step.prepared[0])
        fresh = ahead._prepare_batch(ahead._inputs.batches)
        steps.append((used, copies(fresh[0])))
        return awaited(step)

    monkeypatch.setattr(ahead, "_collect", comparing)
    answered(tight, [ask("Hello"), ask(pictures[0], "What is in the picture?")])
    assert MANY - 10 < len(steps) < MANY
    for used, fresh in steps:
        assert len(used) == len(fresh)
        for one, other in zip(used, fresh, strict=True):
            np.testing.assert_array_equal(one, other)


def test_long_answers_together_are_those_of_one_by_one(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    messages = [ask(pictures[1], "Tell me more"), ask("Hello"), ask("A word " * 20)]
    right = [answered(roomy, [each])[0] for each in messages]
    assert answered(tight, messages) == right


def test_what_was_computed_is_forgotten_when_something_is_released(
    tight: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks that it wrote may be others' from then on."""
    tight.forget()
    rows = runs(tight, monkeypatch)
    tight.submit(ask("Hello"))
    for _ in range(3):
        tight.step()
    tight.pipeline.release("another")
    tight.run()
    assert rows[1:] == [1] * NEW_TOKENS


@pytest.mark.parametrize("caching", [True, False])
def test_a_request_that_begins_anew_is_read_anew(
    tight: Scheduled, roomy: Scheduled, caching: bool
) -> None:
    """After each of its tokens, one of which is the first of a block."""
    messages = ask("A word " * 26)
    length = len(tight.submit(messages, 1).context.tokens)
    tight.run()
    new_tokens = BLOCK + 6 - length
    assert new_tokens > 8
    right = roomy.submit(messages, new_tokens)
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
        assert request.token_ids == right.token_ids


@pytest.mark.parametrize("asked_late", [True, False])
def test_a_step_that_fails_ends_the_request_that_wants_it(
    tight: Scheduled,
    roomy: Scheduled,
    ahead: OverlappedExecution,
    monkeypatch: pytest.MonkeyPatch,
    asked_late: bool,
) -> None:
    launch, launched = ahead._launch, 0

    def failing_fourth(*arguments: Any, **options: Any) -> Any:
        nonlocal launched
        launched += 1
        if launched == 4:
            raise RuntimeError("out of luck")
        return launch(*arguments, **options)

    tight.forget()
    with monkeypatch.context() as patched:
        patched.setattr(ahead, "_launch", failing_fourth)
        request = tight.submit(ask("Hello"))
        while request.status is None:
            tight.step()
            if asked_late:
                settle(ahead)
    assert request.status == "failed"
    assert request.token_ids == roomy.alone(ask("Hello"))[:3]
    assert tight.alone(ask("Hello")) == roomy.alone(ask("Hello"))


def test_a_failure_that_nobody_meets_is_none(
    tight: Scheduled,
    roomy: Scheduled,
    ahead: OverlappedExecution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a step that isn't asked for, since a new request is read first."""
    right = [roomy.alone(ask(text)) for text in ("Hello", "Good day")]
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
    assert [request.token_ids, other.token_ids] == right


def test_a_lack_of_room_is_left_to_the_scheduler(
    tight: Scheduled,
    roomy: Scheduled,
    ahead: OverlappedExecution,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the first token of a block, where the next step needs one."""
    lacked = []

    def full(context: Any) -> None:
        lacked.append(context)
        raise RuntimeError("no block is free")

    manager = SimpleNamespace(alloc=full, step=ahead._kv_manager.step)
    monkeypatch.setattr(ahead, "_kv_manager", manager)
    with caplog.at_level(logging.WARNING):
        assert answered(tight, [ask("Hello")]) == answered(roomy, [ask("Hello")])
    assert lacked
    assert not caplog.records
