"""Prediction of a batch's next decode step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.pipelines.context import EOSTracker, SamplingParams

from mllama.runtime import next_step
from mllama.runtime.next_step import Step

PAGE = 16
LENGTH = 64
END = 7


def context(**settings: Any) -> Any:
    plain = {
        "request_id": 1,
        "json_schema": None,
        "grammar": None,
        "tokens": SimpleNamespace(actively_chunked=False),
        "min_tokens": 0,
        "max_length": LENGTH,
        "eos_tracker": EOSTracker(eos_token_ids={END}),
        "sampling_params": SamplingParams(top_k=1),
    }
    return SimpleNamespace(**plain | settings)


def batch(*contexts: Any, log_probs: bool = False) -> Any:
    return SimpleNamespace(flat_batch=list(contexts), enable_log_probs=log_probs)


SETTINGS = SimpleNamespace(
    enable_penalties=False, enable_min_tokens=False, enable_variable_logits=False
)


class Inputs:
    """A stand-in for a step's inputs that records the tokens it was given."""

    def __init__(self, num_tokens: int) -> None:
        self.tokens = SimpleNamespace(num_elements=num_tokens)
        self.given: list[int] = []

    def advance(self, tokens: list[int]) -> None:
        self.given = tokens


def outputs(*tokens: int, next_token_logits: Any = None) -> Any:
    logits = Buffer.from_numpy(np.eye(10, dtype=np.float32)[list(tokens)])
    return SimpleNamespace(logits=logits, next_token_logits=next_token_logits)


def step(*computed: int, ends: Any = ..., num_tokens: int | None = None) -> Step:
    progress = [(name, length, 1) for name, length in enumerate(computed)]
    inputs = Inputs(len(computed) if num_tokens is None else num_tokens)
    each = (frozenset({END}), LENGTH)
    return Step(progress, (inputs,), [each] * len(computed) if ends is ... else ends)


def test_the_next_step_gets_the_likeliest_tokens() -> None:
    first = step(3, 20)
    second = first.next(outputs(5, 9), PAGE)
    assert second is not None
    assert second.progress == [(0, 4, 1), (1, 21, 1)]
    assert second.prepared[0].given == [5, 9]
    third = second.next(outputs(1, 2), PAGE)
    assert third is not None
    assert third.progress == [(0, 5, 1), (1, 22, 1)]


def test_next_token_logits_take_precedence() -> None:
    one = step(3)
    logits = Buffer.from_numpy(np.eye(10, dtype=np.float32)[[4]])
    assert one.next(outputs(5, next_token_logits=logits), PAGE) is not None
    assert one.prepared[0].given == [4]


@pytest.mark.parametrize(
    ("one", "made"),
    [
        (step(3, 20), outputs(5, END)),
        (step(3, PAGE - 1), outputs(5, 5)),
        (step(3, LENGTH - 2), outputs(5, 5)),
        (step(3, 4, num_tokens=9), outputs(5, 5)),
        (step(3, 4, ends=None), outputs(5, 5)),
    ],
    ids=["ends", "needs a page", "reaches its length", "prefill", "unknown end"],
)
def test_an_unpredictable_step_is_left_to_max(one: Step, made: Any) -> None:
    assert one.next(made, PAGE) is None
    assert one.prepared[0].given == []


def test_a_request_continues_up_to_its_maximum_length() -> None:
    assert step(LENGTH - 3).next(outputs(5), PAGE) is not None


def test_limits_are_the_end_tokens_and_maximum_length_of_each_request() -> None:
    other = context(eos_tracker=EOSTracker(), max_length=9)
    assert next_step.limits_of(batch(context(), other), SETTINGS) == [
        (frozenset({END}), LENGTH),
        (frozenset(), 9),
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"tokens": SimpleNamespace(actively_chunked=True)},
        {"json_schema": "{}"},
        {"grammar": "start: /a/"},
        {"min_tokens": 2},
        {"sampling_params": SamplingParams(top_k=2)},
        {"sampling_params": SamplingParams(top_k=1, frequency_penalty=0.5)},
        {"sampling_params": SamplingParams(top_k=1, logits_processors=[print])},
        {"eos_tracker": EOSTracker(eos_sequences=[[1, 2]])},
    ],
)
def test_a_batch_with_other_stopping_rules_has_no_limits(
    settings: dict[str, Any],
) -> None:
    assert next_step.limits_of(batch(context(), context(**settings)), SETTINGS) is None


def test_a_batch_that_returns_more_than_tokens_has_no_limits() -> None:
    assert next_step.limits_of(batch(context(), log_probs=True), SETTINGS) is None
    settings = SimpleNamespace(**vars(SETTINGS) | {"enable_variable_logits": True})
    assert next_step.limits_of(batch(context()), settings) is None


@pytest.mark.parametrize(
    ("settings", "output", "expected"),
    [
        ({}, {}, True),
        ({"json_schema": "{}"}, {}, False),
        ({"grammar": "start: /a/"}, {}, False),
        ({}, {"is_done": True}, False),
        ({}, {"tokens": []}, False),
        ({}, None, False),
    ],
)
def test_all_continue_is_true_only_if_every_request_gets_another_step(
    settings: dict[str, Any], output: dict[str, Any] | None, expected: bool
) -> None:
    produced = (
        {}
        if output is None
        else {1: SimpleNamespace(**{"tokens": [5], "is_done": False} | output)}
    )
    assert (
        bool(next_step.all_continue(batch(context(**settings)), produced)) is expected
    )
