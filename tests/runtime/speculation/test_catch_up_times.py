"""Times of missed tokens are estimated from the calls that computed some."""

from __future__ import annotations

from mllama.runtime.speculation.catch_up_times import CatchUpTimes


def test_the_fastest_call_counts_after_one_that_warms_up() -> None:
    times = CatchUpTimes()
    times.observe(128, 100.0)
    assert times.seconds(10) is None
    times.observe(128, 12.8)
    assert times.seconds(10) == 1.0
    times.observe(128, 64.0)
    assert times.seconds(10) == 1.0


def test_small_calls_and_old_ones_do_not_count() -> None:
    times = CatchUpTimes()
    for _ in range(3):
        times.observe(2, 0.0)
    assert times.seconds(10) is None
    for seconds in [1.28] * 2 + [2.56] * 8:
        times.observe(128, seconds)
    assert times.seconds(10) == 0.2
