"""How long decode steps take by their number of tokens, from those that have run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

_REMEMBERED: Final = 128
"""Steps that count: the times change with the batch and with the length of answers."""

_REFIT: Final = 8
"""Steps after which the estimate is made anew."""

_PRIOR_SLOPE: Final = 0.06
"""Time of one more token relative to that of a step, before any was measured: 8 rows
take 1.1 to 1.8 times as long as one."""

_PRIOR_WEIGHT: Final = 8.0
"""Steps that the prior counts for."""

_OUTLIER: Final = 3.0
"""A step that takes so many times the median has waited for another program."""


@dataclass(frozen=True)
class StepTime:
    """What a step took.

    Attributes:
        tokens: The tokens that it computed.
        is_guessing: Whether some of them were guesses.
        seconds: From its start to that of the next step.
    """

    tokens: int
    is_guessing: bool
    seconds: float


class StepTimes:
    """Estimates times as a line over the number of tokens.

    A step with guesses has a constant time beside it: it starts when the scheduler has
    the tokens of the step before, and its inputs are made anew.
    """

    def __init__(self) -> None:
        self._steps: deque[StepTime] = deque(maxlen=_REMEMBERED)
        self._new = 0
        self._base, self._slope, self._guessing = 1.0, _PRIOR_SLOPE, 0.0
        self._is_measured = False

    def observe(self, step: StepTime) -> None:
        """Takes a step into account.  A thread may call it beside the others."""
        self._steps.append(step)
        self._new += 1

    @property
    def is_measured(self) -> bool:
        """Returns True if the estimates are seconds, as steps were observed."""
        return self._is_measured

    def seconds(self, tokens: int, is_guessing: bool) -> float:
        """Returns the expected time of a step, in any unit before one was observed."""
        if self._new >= _REFIT:
            self._new = 0
            self._fit()
        return self._base + self._slope * tokens + self._guessing * is_guessing

    def _fit(self) -> None:
        self._is_measured = True
        steps = list(self._steps)
        tokens = np.array([step.tokens for step in steps], float)
        guessing = np.array([step.is_guessing for step in steps], float)
        seconds = np.array([step.seconds for step in steps])
        seconds = np.minimum(seconds, _OUTLIER * np.median(seconds))
        typical = float(seconds.mean())
        # Differences from the prior are small, unless the steps say otherwise.
        slope = _PRIOR_SLOPE * typical
        centered = np.stack([tokens - tokens.mean(), guessing - guessing.mean()])
        rest = seconds - typical - slope * centered[0]
        gram = centered @ centered.T + np.diag([_PRIOR_WEIGHT, _PRIOR_WEIGHT / 4])
        change = np.linalg.solve(gram, centered @ rest)
        self._slope = max(0.0, slope + float(change[0]))
        self._guessing = max(0.0, float(change[1]))
        base = typical - self._slope * tokens.mean() - self._guessing * guessing.mean()
        # Times are divided by.
        self._base = max(0.01 * typical, float(base))
