"""How long decode steps take by their number of tokens, from those that have run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_REMEMBERED: Final = 128
"""Steps that count: the times change with the batch and with the length of answers."""

_REFIT: Final = 8
"""Steps after which the estimate is made anew."""

_PRIOR_SLOPE: Final = 0.06
"""Time of one more token relative to that of a step, before any was measured: 8 rows
take 1.1 to 1.8 times as long as one."""

_PRIOR: Final = np.diag([8.0, 2.0])
"""Steps that the prior counts for: of the slope, and of the constant of guessing."""

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


@dataclass(frozen=True)
class _Estimates:
    """What steps take, in seconds, or in any unit before one was observed.

    Attributes:
        base: A step without tokens.
        slope: Each token.
        guessing: A step with guesses, beside its tokens.
        is_measured: Whether steps were observed.
    """

    base: float
    slope: float
    guessing: float
    is_measured: bool


class StepTimes:
    """Estimates times as a line over the number of tokens.

    A step with guesses has a constant time beside it: it starts when the scheduler has
    the tokens of the step before, and its inputs are made anew.
    """

    def __init__(self) -> None:
        # Rows of tokens, guessing and seconds; the oldest column is replaced.
        self._steps = np.zeros((3, _REMEMBERED))
        self._observed = 0
        self._new = 0
        # Replaced as a whole: another thread observes.
        self._estimates = _Estimates(1.0, _PRIOR_SLOPE, 0.0, False)

    def observe(self, step: StepTime) -> None:
        """Takes a step into account.  A thread may call it beside the others."""
        values = step.tokens, step.is_guessing, step.seconds
        self._steps[:, self._observed % _REMEMBERED] = values
        self._observed += 1
        self._new += 1

    @property
    def is_measured(self) -> bool:
        """Returns True if the estimates are seconds, as steps were observed."""
        return self._estimates.is_measured

    @property
    def seconds_per_token(self) -> float:
        """Returns by how much another token lengthens a step."""
        return self._estimates.slope

    def seconds(self, tokens: int, is_guessing: bool) -> float:
        """Returns the expected time of a step, in any unit before one was observed."""
        if self._new >= _REFIT:
            self._new = 0
            self._estimates = _fitted(self._steps[:, : self._observed].copy())
        line = self._estimates
        return line.base + line.slope * tokens + line.guessing * is_guessing


def _fitted(steps: npt.NDArray[np.float64]) -> _Estimates:
    """Returns the line through steps, near the prior where they are few.

    Args:
        steps: Tokens, guessing and seconds ``[3, steps]``.
    """
    features, seconds = steps[:2], steps[2]
    middle = seconds.size // 2
    seconds = np.minimum(seconds, _OUTLIER * np.partition(seconds, middle)[middle])
    typical = float(seconds.mean())
    means = features.mean(axis=1, keepdims=True)
    # Differences from the prior are small, unless the steps say otherwise.
    slope = _PRIOR_SLOPE * typical
    centered = features - means
    rest = seconds - typical - slope * centered[0]
    gram = centered @ centered.T + _PRIOR
    change = np.linalg.solve(gram, centered @ rest)
    slope = max(0.0, slope + float(change[0]))
    guessing = max(0.0, float(change[1]))
    tokens, guessing_share = means[:, 0].tolist()
    # Times are divided by.
    base = max(0.01 * typical, typical - slope * tokens - guessing * guessing_share)
    return _Estimates(base, slope, guessing, True)
