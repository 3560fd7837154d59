"""How long to wait before a worker is started again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 60.0

STEADY_SECONDS: Final = 60.0
"""A worker that has served so long was sound: its successor starts at once."""


@dataclass
class Backoff:
    """Waits longer with each worker that dies soon after the one before.

    Attributes:
        failures: Workers that have died, the first one or the last one that had served
            for :data:`STEADY_SECONDS` included, and all after it.
    """

    failures: int = 0

    def next_delay(self, served_seconds: float) -> float:
        """Returns the seconds to wait after a worker has died.

        The first one is replaced at once; then come 1, 2, 4 ... 60 seconds.

        Args:
            served_seconds: How long it took requests.
        """
        if served_seconds >= STEADY_SECONDS:
            self.failures = 0
        self.failures += 1
        if self.failures == 1:
            return 0.0
        # The exponent is limited, too: failures have no limit.
        return min(_FIRST_SECONDS * 2 ** min(self.failures - 2, 16), _LONGEST_SECONDS)
