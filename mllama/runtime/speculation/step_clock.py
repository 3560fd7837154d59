"""Measures what decode steps take, from each one's start to that of the next."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from mllama.runtime.speculation.guess_budget import MAX_STEP_TOKENS
from mllama.runtime.speculation.step_times import StepTime, StepTimes


class StepClock:
    """Observes steps that follow one another without a pause.

    Args:
        times: Gets the times.
    """

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        self._started = 0.0
        self._tokens = 0
        self._is_guessing = False

    def start(self, step: Any) -> None:
        """Notes that a step starts, and observes the one before if this follows it.

        Args:
            step: The :class:`~mllama.runtime.next_step.Step`.
        """
        now = perf_counter()
        guessed = now - step.guessing_seconds
        # A prefill says nothing about decode steps.
        if step.follows and self._tokens <= MAX_STEP_TOKENS:
            self._times.observe(
                StepTime(self._tokens, self._is_guessing, guessed - self._started)
            )
        # Guesses take their time before the step that checks them.
        self._started = guessed if step.guesses is not None else now
        self._tokens = step.num_tokens
        self._is_guessing = step.guesses is not None
