"""Asks a proposer, whose failures end no request."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from mllama.runtime.speculation.guess_rules import NO_GUESSES
from mllama.runtime.speculation.proposer import Guesses, Proposer, Prospect

logger = logging.getLogger("mllama")

MOST_FAILURES: Final = 3
"""Failures in a row after which a proposer is asked no more."""


class GuardedProposer:
    """A proposer that guesses nothing where another one raises.

    The other forgets the requests that it was asked about, and is asked again in the
    next step.  After some failures in a row it is given up.

    Args:
        proposer: The other one.

    Attributes:
        proposer: The other one; None once it is given up.
    """

    def __init__(self, proposer: Proposer) -> None:
        self.proposer: Proposer | None = proposer
        self._failures = 0

    def prospects(self, contexts: Sequence[Any]) -> list[Prospect]:
        """Returns what the proposer could do for each request of a batch."""
        if self.proposer is not None:
            try:
                return self.proposer.prospects(contexts)
            except Exception:
                self._fail(contexts)
        return [Prospect(0)] * len(contexts)

    def propose(self, contexts: Sequence[Any], limits: Sequence[int]) -> list[Guesses]:
        """Returns guesses of the tokens that follow each request's tokens so far."""
        if self.proposer is not None and any(limits):
            try:
                guesses = self.proposer.propose(contexts, limits)
            except Exception:
                self._fail(contexts)
            else:
                self._failures = 0
                return guesses
        return [NO_GUESSES] * len(contexts)

    def release(self, request_id: Any) -> None:
        """Forgets a request; it may be called twice."""
        if self.proposer is not None:
            try:
                self.proposer.release(request_id)
            except Exception:
                self._fail([])

    def _fail(self, contexts: Sequence[Any]) -> None:
        """Notes the exception that is being handled.

        Args:
            contexts: The requests that the proposer was asked about.
        """
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            logger.exception(
                "guessing failed %d times in a row; no further tokens are guessed",
                self._failures,
            )
            self.proposer = None
            return
        logger.exception("guessing failed; it begins anew for these requests")
        for context in contexts:
            self.release(context.request_id)
