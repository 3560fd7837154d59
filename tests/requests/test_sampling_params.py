"""Parameters of wrong types or out of range are refused; others are passed to MAX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mllama.errors import RequestError
from mllama.requests.max_sampling_params import SamplingDefaults, max_sampling_params
from mllama.requests.sampling_params import Sampling

GREEDY = SamplingDefaults()
INFINITE, NOT_A_NUMBER = float("inf"), float("nan")


def to_max(
    defaults: SamplingDefaults = GREEDY,
    *,
    choice: int = 0,
    choices: int = 1,
    **settings: Any,
) -> Any:
    return max_sampling_params(
        Sampling(**settings), defaults, vocabulary=100, choice=choice, choices=choices
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": -2},
        {"max_new_tokens": None},
        {"max_new_tokens": "5"},
        {"max_new_tokens": 5.0},
        {"max_new_tokens": True},
        {"min_tokens": -1},
        {"min_tokens": 6, "max_new_tokens": 5},
        {"top_k": 0},
        {"top_k": -2},
        {"top_k": 1.5},
        {"temperature": -0.1},
        {"temperature": NOT_A_NUMBER},
        {"temperature": 2.1},
        {"temperature": "1"},
        {"temperature": True},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": INFINITE},
        {"min_p": None},
        {"presence_penalty": 2.1},
        {"presence_penalty": None},
        {"frequency_penalty": -2.1},
        {"frequency_penalty": NOT_A_NUMBER},
        {"repetition_penalty": 0},
        {"repetition_penalty": INFINITE},
        {"repetition_penalty": -1.0},
        {"logit_bias": {1: 101}},
        {"logit_bias": {1: NOT_A_NUMBER}},
        {"logit_bias": {1: None}},
        {"logit_bias": {-1: 1}},
        {"logit_bias": {"1": 1}},
        {"logit_bias": [1]},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": False},
        {"stop": 5},
        {"stop": ["a", 5]},
        {"stop": b"a"},
        {"stop_token_ids": 5},
        {"stop_token_ids": "5"},
        {"stop_token_ids": [-1]},
        {"stop_token_ids": [True]},
        {"ignore_eos": 1},
        {"logprobs": -2},
        {"logprobs": 21},
        {"logprobs": True},
        {"prompt_logprobs": 21},
    ],
)
def test_bad_values_are_refused_by_name(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(RequestError, match=f"^{name} must ") as caught:
        Sampling(**settings)
    assert caught.value.param == name


def test_numbers_of_numpy_are_numbers() -> None:
    sampling = Sampling(top_k=np.int64(3), temperature=np.float32(0.5))  # type: ignore[arg-type]
    assert (type(sampling.top_k), type(sampling.temperature)) == (int, float)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (None, ()),
        ("", ()),
        ("x", ("x",)),
        (["x", "", "yz"], ("x", "yz")),
        ((), ()),
    ],
)
def test_empty_stop_strings_are_ignored(stop: Any, expected: tuple[str, ...]) -> None:
    assert Sampling(stop=stop).stop_strings == expected


@pytest.mark.parametrize(
    "settings", [{"stop_token_ids": [7, 100]}, {"logit_bias": {100: 1.0}}]
)
def test_tokens_must_be_in_the_vocabulary(settings: dict[str, Any]) -> None:
    sampling = Sampling(**settings)
    sampling.check_vocabulary(101)
    with pytest.raises(RequestError, match="from 0 to 99, not 100") as caught:
        sampling.check_vocabulary(100)
    assert caught.value.param == next(iter(settings))


def test_the_default_is_greedy_until_the_context_is_full() -> None:
    params = to_max(SamplingDefaults(temperature=0.6))
    assert params.top_k == 1
    assert params.max_new_tokens is None


@pytest.mark.parametrize(
    "asked",
    [{"temperature": 0.7}, {"top_p": 0.9}, {"min_p": 0.1}, {"seed": 0}, {"choices": 2}],
)
def test_a_sampling_parameter_enables_sampling_from_all_tokens(
    asked: dict[str, Any],
) -> None:
    assert to_max(**asked).top_k == -1
    assert to_max(**asked, top_k=1).top_k == 1
    assert to_max(**asked, top_k=5).top_k == 5
    assert to_max(SamplingDefaults(top_k=40), **asked).top_k == 40


def test_a_temperature_of_zero_is_greedy() -> None:
    assert to_max(temperature=0, choices=3).top_k == 1


def test_what_is_not_set_is_the_engines_default() -> None:
    defaults = SamplingDefaults(
        temperature=0.6, top_p=0.9, repetition_penalty=1.1, max_new_tokens=50
    )
    own = to_max(defaults)
    assert (own.temperature, own.top_p) == (0.6, 0.9)
    assert (own.repetition_penalty, own.max_new_tokens) == (1.1, 50)
    given = to_max(
        defaults,
        temperature=0.3,
        top_p=1,
        repetition_penalty=1,
        max_new_tokens=60,
    )
    assert (given.temperature, given.top_p) == (0.3, 1.0)
    assert (given.repetition_penalty, given.max_new_tokens) == (1.0, 60)


def test_a_default_limit_leaves_room_for_min_tokens() -> None:
    params = to_max(SamplingDefaults(max_new_tokens=50), min_tokens=70)
    assert (params.min_new_tokens, params.max_new_tokens) == (70, 70)


def test_penalties_and_limits_reach_max() -> None:
    params = to_max(
        min_p=0.1, presence_penalty=0.5, frequency_penalty=-0.5, max_new_tokens=0
    )
    assert (params.min_p, params.max_new_tokens) == (0.1, 0)
    assert (params.presence_penalty, params.frequency_penalty) == (0.5, -0.5)


def test_each_choice_has_its_own_seed() -> None:
    seeds = [to_max(seed=5, choice=choice, choices=3).seed for choice in range(3)]
    assert seeds == [5, 6, 7]
    assert to_max(seed=2**63 - 1, choice=2, choices=3).seed == 1
    drawn = {to_max(choice=choice, choices=3).seed for choice in range(3)}
    assert len(drawn) == 3


def test_a_top_k_beyond_the_vocabulary_samples_from_all_tokens() -> None:
    """MAX reserves memory for as many candidates as it is told."""
    assert to_max(top_k=10**9).top_k == -1
