"""Times of steps are estimated from those that ran."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mllama.runtime.speculation.step_times import StepTime, StepTimes


def observed(seconds: list[tuple[int, bool, float]]) -> StepTimes:
    times = StepTimes()
    for each in seconds:
        times.observe(StepTime(*each))
        times.seconds(1, False)
    return times


def test_before_any_step_more_tokens_take_a_little_longer() -> None:
    times = StepTimes()
    ratio = times.seconds(5, True) / times.seconds(1, False)
    assert 1.1 < ratio < 1.5


def test_a_line_is_found_in_noise() -> None:
    generator = np.random.default_rng(0)
    steps = [
        (
            tokens,
            tokens > 1,
            (0.1 + 0.02 * tokens + 0.03 * (tokens > 1)) * generator.normal(1, 0.05),
        )
        for tokens in generator.integers(1, 9, 128).tolist()
    ]
    times = observed(steps)
    assert times.seconds(1, False) == pytest.approx(0.12, rel=0.1)
    assert times.seconds(5, True) == pytest.approx(0.23, rel=0.1)


def test_equal_steps_leave_the_prior() -> None:
    times = observed([(4, False, 0.2)] * 64)
    assert times.seconds(4, False) == pytest.approx(0.2)
    assert times.seconds(8, True) / 0.2 == pytest.approx(1 + 4 * 0.06)


def test_a_step_that_had_to_wait_changes_little() -> None:
    steps = [(1, False, 0.1), (5, True, 0.15)] * 32
    times = observed([*steps, (1, False, 60.0)])
    assert times.seconds(1, False) == pytest.approx(0.1, rel=0.15)


def test_old_steps_are_forgotten() -> None:
    times = observed([(1, False, 1.0)] * 200 + [(1, False, 0.1)] * 128)
    assert times.seconds(1, False) == pytest.approx(0.1)


def test_steps_are_observed_while_another_thread_estimates() -> None:
    times = StepTimes()
    ends = threading.Event()

    def observe() -> None:
        while not ends.is_set():
            times.observe(StepTime(3, False, 0.01))

    with ThreadPoolExecutor(1) as threads:
        observing = threads.submit(observe)
        try:
            for _ in range(2000):
                assert 0 < times.seconds(3, False) < 2
        finally:
            ends.set()
        observing.result()
    assert times.is_measured
