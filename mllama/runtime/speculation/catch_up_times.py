"""How long a draft model takes for the tokens of a request that it has missed."""

from __future__ import annotations

from collections import deque
from typing import Final

_REMEMBERED: Final = 8
"""Measurements that count, the fastest of them alone: others have waited for another
program."""

_FEWEST: Final = 32
"""Tokens of a measurement: fewer take more time each."""


class CatchUpTimes:
    """Estimates times in proportion to the number of tokens."""

    def __init__(self) -> None:
        self._is_warm = False
        self._seconds_per_token: deque[float] = deque(maxlen=_REMEMBERED)

    def observe(self, tokens: int, seconds: float) -> None:
        """Takes a call that computed missed tokens into account."""
        if tokens < _FEWEST:
            return
        # The first call reads the weights from their file.
        if self._is_warm:
            self._seconds_per_token.append(seconds / tokens)
        self._is_warm = True

    def seconds(self, tokens: int) -> float | None:
        """Returns the expected time of so many tokens; None before any measurement."""
        if not self._seconds_per_token:
            return None
        return tokens * min(self._seconds_per_token)
