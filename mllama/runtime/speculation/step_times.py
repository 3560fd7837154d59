"""How long decode steps take by their number of tokens, from those that have run."""

from __future__ import annotations

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

_PRIOR: Final = np.diag([8.0, 2.0])
"""Steps that the prior counts for."""

_LEARNING: Final = 0.2
"""Weight of one step in what steps of its kind take relative to the line."""

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
    """Estimates times as a line over the number of tokens, and by what differs from it.

    A step with guesses has a constant time beside it: it starts when the scheduler has
    the tokens of the step before, and its inputs are made anew.  Two tokens of a
    request take longer than the line says, and eight less, so that steps which have run
    are known by their ratio to it.
    """

    def __init__(self) -> None:
        # Rows of tokens, guessing and seconds; the oldest column is replaced.
        self._steps = np.zeros((3, _REMEMBERED))
        self._observed = 0
        self._new = 0
        self._base, self._slope, self._guessing = 1.0, _PRIOR_SLOPE, 0.0
        self._ratios: dict[tuple[int, bool], float] = {}
        self._is_measured = False

    def observe(self, step: StepTime) -> None:
        """Takes a step into account.  A thread may call it beside the others."""
        values = step.tokens, step.is_guessing, step.seconds
        self._steps[:, self._observed % _REMEMBERED] = values
        self._observed += 1
        self._new += 1
        if self._is_measured:
            kind = step.tokens, step.is_guessing
            ratio = min(step.seconds / self._on_line(*kind), _OUTLIER)
            last = self._ratios.get(kind, 1.0)
            self._ratios[kind] = last + _LEARNING * (ratio - last)

    @property
    def is_measured(self) -> bool:
        """Returns True if the estimates are seconds, as steps were observed."""
        return self._is_measured

    @property
    def of_a_further_token(self) -> float:
        """Returns by how much another token lengthens a step, in the same unit."""
        return self._slope

    def seconds(self, tokens: int, is_guessing: bool) -> float:
        """Returns the expected time of a step, in any unit before one was observed."""
        if self._new >= _REFIT:
            self._new = 0
            self._fit()
        on_line = self._on_line(tokens, is_guessing)
        return on_line * self._ratios.get((tokens, is_guessing), 1.0)

    def _on_line(self, tokens: int, is_guessing: bool) -> float:
        return self._base + self._slope * tokens + self._guessing * is_guessing

    def _fit(self) -> None:
        self._is_measured = True
        features = self._steps[:2, : self._observed]
        seconds = self._steps[2, : self._observed]
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
        self._slope = max(0.0, slope + float(change[0]))
        self._guessing = max(0.0, float(change[1]))
        tokens, guessing = means[:, 0].tolist()
        base = typical - self._slope * tokens - self._guessing * guessing
        # Times are divided by.
        self._base = max(0.01 * typical, base)
