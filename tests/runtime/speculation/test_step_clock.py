"""What a step takes, and what its guesses take before it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mllama.runtime.speculation import step_clock
from mllama.runtime.speculation.step_clock import StepClock
from mllama.runtime.speculation.step_times import StepTime


def test_guesses_take_their_time_before_the_step_that_checks_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(step_clock, "perf_counter", lambda: now)
    observed: list[StepTime] = []
    clock = StepClock(SimpleNamespace(observe=observed.append))  # type: ignore[arg-type]

    def start(at: float, *, guesses: Any = None, guessing_seconds: float = 0.0) -> None:
        nonlocal now
        now = at
        clock.start(
            SimpleNamespace(
                follows=True,
                guesses=guesses,
                guessing_seconds=guessing_seconds,
                num_tokens=1 if guesses is None else 2,
            )
        )

    start(0)
    observed.clear()
    start(10, guesses=[1], guessing_seconds=4)
    # A draft model reads a prompt, and has no guess yet.
    start(20, guessing_seconds=3)
    start(27)
    assert observed == [
        StepTime(1, False, 6),
        StepTime(2, True, 11),
        StepTime(1, False, 7),
    ]
