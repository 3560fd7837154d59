"""Prediction of a batch's next decode step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.pipelines.context import EOSTracker, SamplingParams

from mllama.max_model.sampling_context import PROMPT_LENGTH
from mllama.runtime import next_step
from mllama.runtime.next_step import Continuation, Step
from mllama.sampling.sampler import choose_token
from mllama.sampling.state import GREEDY, SamplingSettings, SamplingState

PAGE = 16
LENGTH = 64
END = 7


class Tokens:
    """A stand-in for the tokens of MAX's context."""

    def __init__(self, *, actively_chunked: bool = False) -> None:
        self.actively_chunked = actively_chunked
        self.all = np.array([4, 5, 6, 2])

    def __len__(self) -> int:
        return len(self.all)


def context(**settings: Any) -> Any:
    plain = {
        "request_id": 1,
        "json_schema": None,
        "grammar": None,
        "tokens": Tokens(),
        "extra_model_args": {PROMPT_LENGTH: np.array([3])},
        "max_length": LENGTH,
        "eos_tracker": EOSTracker(eos_token_ids={END}),
        "sampling_params": SamplingParams(top_k=1),
    }
    plain["matcher"] = None
    return SimpleNamespace(**plain | settings)


def batch(*contexts: Any, log_probs: bool = False) -> Any:
    return SimpleNamespace(flat_batch=list(contexts), enable_log_probs=log_probs)


SETTINGS = SimpleNamespace(enable_variable_logits=False)


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
    each = Continuation(GREEDY, frozenset({END}), LENGTH)
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


def test_the_next_steps_tokens_are_those_of_the_sampler() -> None:
    """Each predicted step has the position and the tokens of the one before it."""
    logits = np.random.default_rng(1).normal(0, 1, (5, 1, 10)).astype(np.float32)
    settings = SamplingSettings(seed=3, presence_penalty=1.5)
    expected = SamplingState(
        settings=settings, prompt_length=1, position=4, tokens=np.array([1, 2, 3, 0])
    )
    one: Step | None = Step(
        [(1, 3, 1)], (Inputs(1),), [Continuation(expected, frozenset(), LENGTH)]
    )
    for row in logits:
        assert one is not None
        made = SimpleNamespace(logits=Buffer.from_numpy(row), next_token_logits=None)
        one = one.next(made, PAGE)
        assert one is not None
        token = choose_token(row[0], expected)
        assert one.prepared[0].given == [token]
        expected = SamplingState(
            settings=settings,
            prompt_length=1,
            position=expected.position + 1,
            tokens=np.append(expected.tokens, token),
        )


def test_tokens_beyond_the_tokenizers_are_never_predicted() -> None:
    one = step(3)
    one.vocab_size = 5
    following = one.next(outputs(9), PAGE)
    assert following is not None
    assert one.prepared[0].given == [0]
    assert following.vocab_size == 5


def test_a_request_continues_by_its_settings_up_to_its_end_tokens_and_length() -> None:
    params = SamplingParams(top_p=0.5, seed=9, min_new_tokens=2)
    other = context(eos_tracker=EOSTracker(), max_length=9, sampling_params=params)
    found = next_step.continuations_of(batch(context(), other), SETTINGS)
    assert found is not None
    greedy, sampled = found
    assert greedy == Continuation(GREEDY, frozenset({END}), LENGTH)
    assert (sampled.end_tokens, sampled.max_length) == (frozenset(), 9)
    assert sampled.sampling.settings.top_p == 0.5
    assert sampled.sampling.settings.seed == 9
    assert (sampled.sampling.position, sampled.sampling.prompt_length) == (4, 3)


class Forcing:
    """A grammar that forces a token after some answers, ``{last token: forced}``."""

    def __init__(self, forced: dict[int, int]) -> None:
        self.forced = forced

    def bitmask(self, answer: Any) -> Any:
        forced = self.forced_token(answer)
        return np.array([-1 if forced is None else 1 << forced], np.int32)

    def forced_token(self, answer: Any) -> int | None:
        return self.forced.get(answer[-1]) if len(answer) else None


@pytest.mark.parametrize(("forced", "is_predicted"), [({4: 2}, False), ({5: 2}, True)])
def test_a_step_with_forced_tokens_is_left_to_max(
    forced: dict[int, int], is_predicted: bool
) -> None:
    state = SamplingState(
        settings=SamplingSettings(top_k=1),
        tokens=np.array([3]),
        prompt_length=1,
        position=1,
        grammar=Forcing(forced),
    )
    constrained = Continuation(state, frozenset(), LENGTH)
    free = Continuation(GREEDY, frozenset(), LENGTH)
    last = step(10, 20, ends=[free, constrained])
    following = last.next(outputs(4, 4), PAGE)
    assert (following is not None) is is_predicted
    # Its inputs are changed only for the next step.
    assert bool(last.prepared[0].given) is is_predicted


@pytest.mark.parametrize(
    "settings",
    [
        {"tokens": Tokens(actively_chunked=True)},
        {"json_schema": "{}"},
        {"grammar": "start: /a/"},
        {"sampling_params": SamplingParams(top_k=1, logits_processors=[print])},
        {"eos_tracker": EOSTracker(eos_sequences=[[1, 2]])},
    ],
)
def test_a_batch_with_other_stopping_rules_is_left_to_max(
    settings: dict[str, Any],
) -> None:
    both = batch(context(), context(**settings))
    assert next_step.continuations_of(both, SETTINGS) is None


def test_a_batch_that_returns_more_than_tokens_is_left_to_max() -> None:
    wanted = batch(context(), log_probs=True)
    assert next_step.continuations_of(wanted, SETTINGS) is None
    settings = SimpleNamespace(enable_variable_logits=True)
    assert next_step.continuations_of(batch(context()), settings) is None


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
