"""Promises about time, on machines that do other things, too."""

from __future__ import annotations

from collections.abc import Callable

_ROUNDS = 3


def is_kept_in_a_round(round_: Callable[[], bool]) -> bool:
    """Returns True if a promise about time is kept in one of several rounds.

    Other programs may take the cores in any of them.  What is slow by itself is slow in
    all.
    """
    return any(round_() for _ in range(_ROUNDS))
