"""Guesses are made as far as they pay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mllama.runtime.speculation.guess_budget import (
    MAX_GUESSES,
    MAX_STEP_TOKENS,
    GuessBudget,
)
from mllama.runtime.speculation.proposer import Prospect
from mllama.runtime.speculation.step_times import StepTime, StepTimes


def step_times(slope: float, guessing: float = 0.0) -> StepTimes:
    """Returns times of steps that take ``slope`` more for each further token."""
    times = StepTimes()
    for tokens in np.random.default_rng(0).integers(1, 12, 128).tolist():
        for is_guessing in (False, True):
            seconds = 1 + slope * (tokens - 1) + guessing * is_guessing
            times.observe(StepTime(tokens, is_guessing, seconds))
    return times


def budget(slope: float = 0.06, *, probes: bool = False, **more: float) -> GuessBudget:
    return GuessBudget(step_times(slope, **more), probes=probes)


def learn(
    budget: GuessBudget, request: Any, rate: float, guesses: int = 400, kind: int = 0
) -> None:
    generator = np.random.default_rng(1)
    for _ in range(guesses):
        budget.observe(request, kind, int(generator.random() < rate), 1)


def limits(budget: GuessBudget, *requests: Any, kind: int = 0) -> list[int]:
    count = len(requests)
    return budget.limits(requests, [kind] * count, [100] * count, count)


def test_many_are_guessed_where_most_are_right() -> None:
    made = budget()
    learn(made, "a", 1.0)
    assert limits(made, "a") == [MAX_GUESSES]


def test_a_guess_of_one_request_pays_only_if_it_pays_for_the_whole_batch() -> None:
    made = budget()
    learn(made, "a", 0.3)
    others = list("bcdefgh")
    kinds, most = [0] * 8, [100] + [0] * 7
    assert made.limits(["a", *others], kinds, most, 8) == [0] * 8
    assert made.limits(["a"], [0], [100], 1) != [0]


def test_none_are_guessed_where_none_are_right() -> None:
    made = budget()
    learn(made, "a", 0.0)
    assert limits(made, "a") == [0]


@pytest.mark.parametrize(("slope", "pays"), [(0.06, True), (0.9, False)])
def test_the_time_of_a_step_decides(slope: float, pays: bool) -> None:
    made = budget(slope)
    learn(made, "a", 0.7)
    assert (limits(made, "a")[0] > 0) is pays


def test_likely_guesses_come_first() -> None:
    made = budget(0.15)
    learn(made, "a", 0.95)
    learn(made, "b", 0.4)
    likely, unlikely = limits(made, "a", "b")
    assert likely > unlikely


def test_a_constant_time_of_guessing_needs_several_guesses_to_pay() -> None:
    made = budget(0.02, guessing=0.6)
    learn(made, "a", 0.95)
    assert limits(made, "a")[0] >= 2
    learn(made, "a", 0.3)
    assert limits(made, "a") == [0]


def test_steps_stay_short() -> None:
    made = budget(0.001)
    names = list(range(16))
    for name in names:
        learn(made, name, 1.0)
    assert sum(limits(made, *names)) == MAX_STEP_TOKENS - 16


def test_without_probes_none_are_guessed_for_ever() -> None:
    made = budget()
    learn(made, "a", 0.0)
    assert all(limits(made, "a") == [0] for _ in range(2000))


def test_probes_become_rare_and_find_a_request_that_pays_again() -> None:
    made = budget(probes=True)
    learn(made, "a", 0.0)
    probes = []
    for step in range(4000):
        (limit,) = limits(made, "a")
        if limit:
            assert limit == 1
            probes.append(step)
            made.observe("a", 0, 0, 1)
    assert 2 <= len(probes) <= 9
    assert probes[-1] - probes[-2] > 500
    for _ in range(4000):
        (limit,) = limits(made, "a")
        if limit:
            made.observe("a", 0, limit, limit)
    assert limits(made, "a")[0] > 1


def test_what_a_wrong_guess_hides_is_not_learned() -> None:
    one, other = budget(), budget()
    for made, guessed in ((one, 2), (other, MAX_GUESSES)):
        learn(made, "a", 1.0)
        made.observe("a", 0, 1, guessed)
    assert one._pace("a").rates == other._pace("a").rates


def test_a_request_begins_like_those_before_it() -> None:
    made = budget()
    for name in range(20):
        learn(made, name, 0.0, 40)
    assert limits(made, "new") == [0]


def test_the_first_guesses_of_a_request_count_most() -> None:
    made = budget()
    rates = made._pace("a").rates
    first = rates[0]
    for _ in range(3):
        made.observe("a", 0, 0, 1)
    assert rates[0] == pytest.approx(first * 4 / 7)
    learn(made, "a", 1.0)
    settled = rates[0]
    made.observe("a", 0, 0, 1)
    assert rates[0] == pytest.approx(0.9 * settled)


def test_kinds_of_guesses_are_told_apart() -> None:
    made = budget()
    learn(made, "a", 0.0, kind=2)
    learn(made, "a", 1.0, kind=8)
    assert limits(made, "a", kind=2) == [0]
    assert limits(made, "a", kind=8) == [MAX_GUESSES]


def test_no_more_are_checked_than_there_are() -> None:
    made = budget()
    learn(made, "a", 1.0)
    assert made.limits(["a", "b"], [0, 0], [3, 0], 2) == [3, 0]


def test_a_request_that_is_released_is_forgotten() -> None:
    made = budget()
    learn(made, "a", 1.0)
    made.release("a")
    made.release("a")
    assert not made._paces


def catches_up(
    budget: GuessBudget, missed: int, remaining: int, requests: int = 1
) -> bool:
    prospect = Prospect(8, missed, 0.02 * missed)
    return budget.pays_to_catch_up("a", 0, prospect, remaining, requests, requests)


def test_catching_up_pays_in_proportion_to_the_answer_that_remains() -> None:
    made = budget()
    learn(made, "a", 0.7)
    assert catches_up(made, 1000, 100)
    assert not catches_up(made, 1000, 10)
    # One request's guesses save little of a batch's time.
    assert not catches_up(made, 1000, 100, requests=4)


def test_a_probe_may_catch_up_with_what_came_since_the_last() -> None:
    made = budget(probes=True)
    learn(made, "a", 0.0)
    assert not catches_up(made, 100, 1000)
    probed = 0
    for _ in range(4000):
        if catches_up(made, 1 + made._pace("a").steps, 10_000):
            (limit,) = limits(made, "a")
            if limit:
                probed += 1
                made.observe("a", 0, 0, 1)
        else:
            made.limits(["a"], [0], [0], 1)
    assert probed > 4
